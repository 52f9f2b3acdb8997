"""That docker-compose.yml and the service mean the same; no engine is needed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from service.sandboxes.launcher.program import read_options
from service.settings import Settings, read_settings
from tests.machine import ROOT

DOCUMENTED = (ROOT / "docs/deployment.md").read_text()
TEXT = (ROOT / "docker-compose.yml").read_text()
NOT_FOR_COMPOSE = {
    "RLM_UNSAFE_NO_SANDBOX",  # for debugging the service itself
    "RLM_DOCKER_HOST",  # the launcher's: `RLM_DOCKER_SOCKET`
    "OPENAI_API_KEY",  # secrets are files
    "ANTHROPIC_API_KEY",
}
VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """As Compose reads it with no setting made."""
    plain = VARIABLE.sub(lambda found: found[2], TEXT)
    found: dict[str, Any] = yaml.safe_load(plain)["services"]
    return found


@pytest.fixture(scope="module")
def settings(services: dict[str, Any]) -> Settings:
    """What the API reads in its container; its secrets are another test's."""
    given = services["api"]["environment"]
    environment = {name: "" if value is None else str(value) for name, value in given.items()}
    return read_settings({name: value for name, value in environment.items() if name != "RLM_SECRETS_DIR"})


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Path inside → path on the machine."""
    return {volume["target"]: volume["source"] for volume in service["volumes"]}


def options_of(services: dict[str, Any], at: Path) -> Any:
    """The launcher's, whose socket's directory has to exist where it is read."""
    words = services["launcher"]["command"]
    assert words[:4] == ["python3", "-P", "-m", "service.sandboxes.launcher"]
    return read_options([word.replace("/run/launcher", str(at)) for word in words[4:]])


def test_every_variable_that_the_api_is_given_is_a_documented_setting(services: dict[str, Any]) -> None:
    """None is misspelt or of another version, and none is a secret."""
    documented = (ROOT / "docs/settings.md").read_text()
    for name in services["api"]["environment"]:
        assert f"| `{name}` |" in documented, name
        assert not name.endswith(("_KEY", "_TOKEN", "_PASSWORD")), name


def test_every_setting_can_be_made(services: dict[str, Any]) -> None:
    """What docs/settings.md has, the API is given: from `.env` or as the file has it. None is silently left out."""
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    assert documented - set(services["api"]["environment"]) == NOT_FOR_COMPOSE


def test_api_and_launcher_agree(services: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    """One socket, one directory of sessions, one uid, one image and runtime; what the API asks for is within bounds."""
    options = options_of(services, tmp_path)
    assert settings.launcher_socket == Path("/run/launcher") / options.socket.name
    assert options.sessions == settings.data_directory / "sessions"
    assert services["api"]["user"] == f"{options.client_uid}:{options.client_uid}"
    assert options.client_uid != 0
    assert settings.sandbox == "docker"
    assert options.bounds.images == (settings.docker_image,)
    assert options.bounds.runtimes == (settings.docker_runtime,)
    assert options.bounds.memory_bytes == settings.sandbox_memory_bytes
    assert options.bounds.sandboxes > settings.sandbox_slots


def test_what_the_engine_mounts_stands_at_one_path_everywhere(
    services: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    """The data directory, the sessions and the stage have the same path on the machine and in each container."""
    options = options_of(services, tmp_path)
    data, sessions, stage = (str(path) for path in (settings.data_directory, options.sessions, options.stage))
    api, launcher = mounts(services["api"]), mounts(services["launcher"])
    assert api[data] == data  # whole, so that contexts can be hard-linked from blobs to sessions
    assert launcher[sessions] == sessions
    assert launcher[stage] == stage
    (propagation,) = [volume["bind"] for volume in services["launcher"]["volumes"] if volume["target"] == stage]
    assert propagation == {"propagation": "rshared"}


def test_the_store_is_reached_by_its_socket_only(services: dict[str, Any], settings: Settings) -> None:
    """The API and the store share the socket's directory, no port is open, and every write reaches the disk."""
    configuration = dict(
        line.split(" ", 1)
        for line in (ROOT / "deploy/compose/store.conf").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert settings.redis_url == f"unix://{configuration['unixsocket']}"
    assert mounts(services["store"])["/run/store"] == mounts(services["api"])["/run/store"]
    assert configuration["dir"] in mounts(services["store"])
    assert (configuration["port"], configuration["appendfsync"]) == ("0", "always")
    assert configuration["maxmemory-policy"] == "noeviction"
    assert services["store"]["user"] == services["api"]["user"]


def test_health_checks_ask_where_the_service_listens(services: dict[str, Any], settings: Settings) -> None:
    """The addresses in healthy.py are those of the settings; draining ends before Compose kills."""
    script = (ROOT / "deploy/compose/healthy.py").read_text()
    assert f'"http://127.0.0.1:{settings.port}/readyz"' in script
    assert f'"{settings.launcher_socket}"' in script
    assert f'"{str(settings.redis_url).removeprefix("unix://")}"' in script
    assert settings.drain_s < int(services["api"]["stop_grace_period"].removesuffix("s"))
    for name, service in services.items():
        assert service["healthcheck"]["test"][-1] == name


def test_each_variable_of_the_file_is_documented() -> None:
    """docs/deployment.md has each, with its default where the file has one, which is the same at every place."""
    defaults: dict[str, set[str]] = {}
    for name, default in VARIABLE.findall(TEXT):
        defaults.setdefault(name, set()).add(default)
    assert not re.sub(VARIABLE, "", TEXT).count("${")
    for name, found in defaults.items():
        (default,) = found
        words = f"| `{name}` | `{default}` |" if default else f"`{name}`"
        assert words in DOCUMENTED, words


def test_the_image_has_what_the_project_needs() -> None:
    """Its packages are the project's, those that read documents included, each by hash."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["documents"]
    listed = (ROOT / "deploy/requirements-image.txt").read_text()
    for requirement in needed:
        name = re.split(r"[\[<>=; ]", requirement)[0]
        assert re.search(rf"^{re.escape(name)}(\[[a-z]+\])?==", listed, re.MULTILINE), name
