"""One Compose project of a test's own, over a directory of its own. Nothing of the machine is looked at but what bears
the project's or the directory's label."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import docker
import docker.errors

from tests.deployment.images import build_service_image
from tests.machine import DOCKER_HOST, ROOT, SANDBOX_IMAGE, SERVICE_IMAGE, compose_commands
from tests.sandboxes.docker_machine import build_image, engine

COMPOSE_DEADLINE_S = 240
DEADLINE_S = 120
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A project that is up, or was."""

    command: tuple[str, ...]
    project: str
    directory: Path
    settings: Path
    client: docker.APIClient

    def compose(self, *words: str) -> str:
        """Run Compose on it, with an environment that overrides nothing of the settings file."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            [*self.command, "--project-name", self.project, "--env-file", str(self.settings), *words],
            cwd=ROOT,
            env=environment | {"DOCKER_HOST": DOCKER_HOST},
            capture_output=True,
            text=True,
            timeout=COMPOSE_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def container(self, service: str) -> dict[str, Any]:
        """As the engine describes the container of one of the services."""
        (found,) = self._described(
            [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        )
        return found

    def containers(self) -> list[dict[str, Any]]:
        return self._described([f"com.docker.compose.project={self.project}"])

    def sandboxes(self) -> list[dict[str, Any]]:
        """Of this deployment's directory. One may end at any moment: what is gone by now is left out."""
        return self._described([f"rlm.sessions={self.directory}/data/sessions"])

    def networks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.networks(
            filters={"label": f"com.docker.compose.project={self.project}"}
        )
        return found

    async def address(self) -> str:
        """Where the API is published now, once it is healthy."""
        return await eventually(self._address_if_healthy, "the API is healthy")

    async def some_sandboxes(self) -> list[dict[str, Any]]:
        """Once there are any; a warm one comes soon after the start."""

        async def look() -> list[dict[str, Any]] | None:
            return self.sandboxes() or None

        return await eventually(look, "a warm sandbox is there")

    async def _address_if_healthy(self) -> str | None:
        found = self.container("api")
        if found["State"].get("Health", {}).get("Status") != "healthy":
            return None
        ports = found["NetworkSettings"]["Ports"].get("8000/tcp")
        return f"http://127.0.0.1:{ports[0]['HostPort']}" if ports else None

    def admin_key(self) -> str:
        return (self.directory / "data/admin-key").read_text().strip()

    def logs(self) -> str:
        return self.compose("logs", "--no-color")

    def _described(self, labels: list[str]) -> list[dict[str, Any]]:
        described: list[dict[str, Any]] = []
        for container in self.client.containers(all=True, filters={"label": labels}):
            try:
                described.append(self.client.inspect_container(container["Id"]))
            except docker.errors.NotFound:
                continue
        return described


@contextmanager
def deployed(generation: str, *, secrets: dict[str, str]) -> Iterator[Deployment]:
    """A project that was told to come up; it is taken down, and its directory removed, with the block."""
    build_image()
    build_service_image()
    directory = Path(tempfile.mkdtemp(prefix=f"rlm-compose{generation}-")).resolve()
    settings = directory / "settings.env"
    try:
        subprocess.run(
            ["sh", "deploy/compose/prepare.sh", str(directory), str(settings)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "DOCKER_HOST": DOCKER_HOST},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        chosen = {
            "RLM_PUBLISH": "127.0.0.1:",  # any port that is free
            "RLM_DOCKER_RUNTIME": "runc",
            "RLM_IMAGE": SERVICE_IMAGE,
            "RLM_DOCKER_IMAGE": SANDBOX_IMAGE,
            "RLM_DOCKER_SOCKET": DOCKER_HOST.removeprefix("unix://"),
        }
        with settings.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in chosen.items())
        for name, value in secrets.items():
            path = directory / "secrets/variables" / name
            path.write_text(value)
            os.chown(path, 10001, 10001)
            path.chmod(0o400)
        with engine() as client:
            it = Deployment(
                command=compose_commands()[generation],
                project=directory.name.replace("_", "-").lower(),
                directory=directory,
                settings=settings,
                client=client,
            )
            try:
                it.compose("up", "-d", "--no-build")
                yield it
            finally:
                it.compose("down", "--volumes", "--timeout", "60")
    finally:
        subprocess.run(["umount", str(directory / "stage")], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(directory)


async def eventually(look: Callable[[], Awaitable[_T | None]], why: str) -> _T:
    """What it finds, once it finds anything."""
    with anyio.move_on_after(DEADLINE_S):
        while True:
            found = await look()
            if found is not None:
                return found
            await anyio.sleep(0.2)
    raise AssertionError(f"not within {DEADLINE_S} s: {why}")


def shown(described: dict[str, Any]) -> str:
    """All that `docker inspect` shows."""
    return json.dumps(described)
