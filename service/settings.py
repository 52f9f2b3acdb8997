"""Settings: read once from the environment, frozen, and handed down by `wiring`.

The only module that reads the environment. Every setting is documented in docs/settings.md.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from service.errors import BadRequest

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_LARGEST_SECRET = 4096
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9_./:@-]{0,255}")
"""As the launcher takes them (`sandboxes.launcher.protocol`)."""
_ENGINES = ("unix:///", "tcp://", "http://", "https://", "ssh://")
_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of one replica."""

    data_directory: Path
    """`RLM_DATA_DIR`: blobs, session directories and the embedded store; one file system."""
    redis_url: str | None
    """`RLM_REDIS_URL`: a Redis or Valkey server; None starts the embedded one."""
    openai_base_url: str
    """`OPENAI_BASE_URL`: where `openai/…` and unprefixed models are called."""
    openai_api_key: str | None
    """`OPENAI_API_KEY`."""
    anthropic_base_url: str
    """`ANTHROPIC_BASE_URL`: where `anthropic/…` models are called."""
    anthropic_api_key: str | None
    """`ANTHROPIC_API_KEY`."""
    key_pepper_file: Path | None
    """`RLM_KEY_PEPPER_FILE`: the secret under which API keys are kept; None for one in the data directory."""
    vault_key_file: Path | None
    """`RLM_VAULT_KEY_FILE`: what tenants' provider keys are encrypted with; None for one in the data directory."""
    config_file: Path | None
    """`RLM_CONFIG`: TOML with the operator's models, profiles and prompt packs."""
    sandbox_slots: int
    """`RLM_SANDBOX_SLOTS`: sandboxes that may be alive at once, warm ones included."""
    warm_sandboxes: int
    """`RLM_WARM_SANDBOXES`: how many to keep started ahead of need."""
    sandbox_memory_bytes: int
    """`RLM_SANDBOX_MEMORY_MB`."""
    sandbox: Literal["process", "docker"]
    """`RLM_SANDBOX`: what starts sandboxes; `ask --sandbox` overrides it."""
    docker_image: str
    """`RLM_DOCKER_IMAGE`: what Docker sandboxes are started from."""
    docker_runtime: Literal["runc", "runsc"]
    """`RLM_DOCKER_RUNTIME`: never replaced by a weaker one."""
    docker_host: str | None
    """`RLM_DOCKER_HOST`: the engine for the launcher that the service starts; None for the machine's usual socket."""
    launcher_socket: Path | None
    """`RLM_LAUNCHER_SOCKET`: a launcher that runs already; None starts one."""
    trust_runc: bool
    """`RLM_TRUST_RUNC=1`: runc counts as good enough for tenants who do not trust each other."""
    unsafe_no_sandbox: bool
    """`RLM_UNSAFE_NO_SANDBOX=1`: run cells without isolation. For debugging the service itself, nothing else."""
    host: str
    """`RLM_HOST`: the address that `serve` listens at."""
    port: int
    """`RLM_PORT`: 0 takes any that is free."""
    drain_notice_s: float
    """`RLM_DRAIN_NOTICE_S`: how long `serve` says that it is draining before it stops listening."""
    drain_s: float
    """`RLM_DRAIN_S`: how long requests may go on once `serve` was told to end."""
    most_connections: int
    """`RLM_MAX_CONNECTIONS`: of clients to `serve`, at once."""
    session_pause_s: float | None
    """`RLM_SESSION_PAUSE_S`: an idle session's sandbox is paused then, where it can be; None never."""
    session_idle_s: float | None
    """`RLM_SESSION_IDLE_S`: an idle session's sandbox is ended then; None only when its slot is wanted."""
    lease_s: float
    """`RLM_LEASE_S`: how long a replica that has died keeps its runs from being taken over by others."""
    on_divergence: Literal["tell", "stop"]
    """`RLM_ON_DIVERGENCE`: what follows when a cell that is run again ends otherwise; a run may ask otherwise."""
    runs_kept_s: float | None
    """`RLM_KEEP_RUNS_DAYS`: how long after their end `serve` forgets runs; None never."""
    collect_blobs_s: float | None
    """`RLM_COLLECT_BLOBS_S`: how often `serve` looks for blobs that nothing refers to; None never."""
    chat_contexts_kept_s: float | None
    """`RLM_KEEP_CHAT_CONTEXTS_HOURS`: how long `serve` keeps contexts that came along with a conversation after they
    were last brought; None until they are deleted."""
    root_model: str | None
    """`RLM_ROOT_MODEL`: the root LM of profiles that name none, for clients that can name nothing but a profile."""
    sub_model: str | None
    """`RLM_SUB_MODEL`: likewise for sub-calls; the root LM without it."""
    model_concurrency: int
    """`RLM_MODEL_CONCURRENCY`: model calls in flight at once per provider."""
    metrics_host: str
    """`RLM_METRICS_HOST`: the address that metrics are read at."""
    metrics_port: int | None
    """`RLM_METRICS_PORT`: 0 takes any that is free; None for no metrics."""
    webhook_networks: tuple[IPv4Network | IPv6Network, ...]
    """`RLM_WEBHOOK_NETWORKS`: what webhooks may ask besides public addresses, over plain http too."""
    environment: Mapping[str, str]
    """All of it, as it was read, and the files of `RLM_SECRETS_DIR`: keys of further providers are looked up in it, by
    the names that `config_file` gives or that follow from the provider's."""

    unknown: tuple[str, ...] = ()
    """A sentence for each variable that is named like a setting and is none."""

    @property
    def without_effect(self) -> tuple[str, ...]:
        """A sentence for each variable that does nothing as things are set; of those that are settings, only what makes
        people believe in an isolation that they do not have."""
        if self.sandbox == "process" and self.environment.get("RLM_DOCKER_RUNTIME"):
            return (*self.unknown, "RLM_DOCKER_RUNTIME does nothing without RLM_SANDBOX=docker (or --sandbox docker)")
        return self.unknown

    def __repr__(self) -> str:
        """Without keys, and without the environment, which may hold more of them."""
        store = "embedded" if self.redis_url is None else "at RLM_REDIS_URL"
        return f"<Settings data={self.data_directory} store={store} config={self.config_file}>"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check all settings.

    Raises:
        BadRequest: a value is unusable; the message names the variable.
    """
    given = os.environ if environment is None else environment
    if given.get("RLM_SECRETS_DIR"):
        given = _with_secrets(given, Path(given["RLM_SECRETS_DIR"]))
    env = _Asked(given)
    settings = _settings(env)
    return replace(settings, unknown=tuple(_unknown(given, env.names)))


class _Asked(Mapping[str, str]):
    """An environment that knows which of its names were asked for, be they there or not."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = given
        self.names = {"RLM_SECRETS_DIR"}

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return self.given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


def _settings(env: _Asked) -> Settings:
    home = Path(env.get("XDG_DATA_HOME") or Path(env.get("HOME") or Path.home()) / ".local/share")
    config_file = env.get("RLM_CONFIG")
    launcher_socket = env.get("RLM_LAUNCHER_SOCKET")
    return Settings(
        data_directory=Path(env.get("RLM_DATA_DIR") or home / "rlm-service").absolute(),
        redis_url=_redis_url(env, "RLM_REDIS_URL"),
        openai_base_url=_base_url(env, "OPENAI_BASE_URL", default="https://api.openai.com/v1"),
        openai_api_key=env.get("OPENAI_API_KEY") or None,
        anthropic_base_url=_base_url(env, "ANTHROPIC_BASE_URL", default="https://api.anthropic.com"),
        anthropic_api_key=env.get("ANTHROPIC_API_KEY") or None,
        key_pepper_file=_file(env, "RLM_KEY_PEPPER_FILE"),
        vault_key_file=_file(env, "RLM_VAULT_KEY_FILE"),
        config_file=Path(config_file) if config_file else None,
        sandbox_slots=_whole_number(env, "RLM_SANDBOX_SLOTS", default=8, least=1, most=4096),
        warm_sandboxes=_whole_number(env, "RLM_WARM_SANDBOXES", default=1, least=0, most=1024),
        sandbox_memory_bytes=_whole_number(env, "RLM_SANDBOX_MEMORY_MB", default=2048, least=64, most=1 << 20) << 20,
        sandbox=_one_of(env, "RLM_SANDBOX", ("process", "docker")),
        docker_image=_image(env, "RLM_DOCKER_IMAGE", default="rlm-sandbox"),
        docker_runtime=_one_of(env, "RLM_DOCKER_RUNTIME", ("runc", "runsc")),
        docker_host=_engine(env, "RLM_DOCKER_HOST"),
        launcher_socket=Path(launcher_socket).absolute() if launcher_socket else None,
        trust_runc=_switch(env, "RLM_TRUST_RUNC"),
        unsafe_no_sandbox=_switch(env, "RLM_UNSAFE_NO_SANDBOX"),
        host=env.get("RLM_HOST") or "127.0.0.1",
        port=_whole_number(env, "RLM_PORT", default=8000, least=0, most=65_535),
        drain_notice_s=float(_whole_number(env, "RLM_DRAIN_NOTICE_S", default=0, least=0, most=300)),
        drain_s=float(_whole_number(env, "RLM_DRAIN_S", default=30, least=0, most=3600)),
        most_connections=_whole_number(env, "RLM_MAX_CONNECTIONS", default=4096, least=1, most=1_000_000),
        session_pause_s=_whole_number(env, "RLM_SESSION_PAUSE_S", default=60, least=0, most=604_800) or None,
        session_idle_s=_whole_number(env, "RLM_SESSION_IDLE_S", default=1800, least=0, most=604_800) or None,
        lease_s=float(_whole_number(env, "RLM_LEASE_S", default=15, least=1, most=3600)),
        on_divergence=_one_of(env, "RLM_ON_DIVERGENCE", ("tell", "stop")),
        runs_kept_s=86_400.0 * _whole_number(env, "RLM_KEEP_RUNS_DAYS", default=90, least=0, most=36_500) or None,
        collect_blobs_s=_whole_number(env, "RLM_COLLECT_BLOBS_S", default=21_600, least=0, most=31_536_000) or None,
        chat_contexts_kept_s=3600.0
        * _whole_number(env, "RLM_KEEP_CHAT_CONTEXTS_HOURS", default=24, least=0, most=876_000)
        or None,
        root_model=env.get("RLM_ROOT_MODEL") or None,
        sub_model=env.get("RLM_SUB_MODEL") or None,
        model_concurrency=_whole_number(env, "RLM_MODEL_CONCURRENCY", default=256, least=1, most=10_000),
        metrics_host=env.get("RLM_METRICS_HOST") or "127.0.0.1",
        metrics_port=_whole_number(env, "RLM_METRICS_PORT", default=0, least=0, most=65_535)
        if env.get("RLM_METRICS_PORT")
        else None,
        webhook_networks=_networks(env, "RLM_WEBHOOK_NETWORKS"),
        environment=MappingProxyType(dict(env.given)),
    )


def _unknown(env: Mapping[str, str], asked: Collection[str]) -> Iterator[str]:
    for name in sorted(name for name in env if name.startswith("RLM_") and name not in asked):
        likely = get_close_matches(name, asked, n=1)
        yield f"{name} is not a setting" + (f"; did you mean {likely[0]}?" if likely else " (docs/settings.md)")


def _with_secrets(env: Mapping[str, str], directory: Path) -> Mapping[str, str]:
    """With a variable for each file that is named like one; other files there are somebody else's."""
    secrets: dict[str, str] = {}
    try:
        for path in sorted(directory.iterdir()):
            if not _VARIABLE.fullmatch(path.name):
                continue
            if path.name in env:
                raise BadRequest(
                    f"{path.name} is set and there is a file {path} (RLM_SECRETS_DIR): keep one of the two"
                )
            with path.open("rb") as file:
                content = file.read(_LARGEST_SECRET + 1)
            if len(content) > _LARGEST_SECRET or b"\0" in content:
                raise BadRequest(f"{path} must hold the value of {path.name}, of at most {_LARGEST_SECRET} bytes")
            secrets[path.name] = content.decode().strip()
    except UnicodeDecodeError as exc:
        raise BadRequest(f"{path} must hold the value of {path.name} as UTF-8") from exc
    except OSError as exc:
        raise BadRequest(f"the secrets in RLM_SECRETS_DIR={directory} cannot be read ({exc.strerror})") from exc
    return {**env, **secrets}


def _networks(env: Mapping[str, str], name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(each.strip()) for each in env.get(name, "").split(",") if each.strip())
    except ValueError:
        raise BadRequest(f"{name} must be networks such as 10.0.0.0/8,fd00::/8, separated by commas") from None


def _file(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]).absolute() if env.get(name) else None


def _whole_number(env: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = env.get(name)
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        raise BadRequest(f"{name} must be a whole number, found {text!r}") from None
    if not least <= number <= most:
        raise BadRequest(f"{name} must be between {least} and {most}, found {number}")
    return number


def _image(env: Mapping[str, str], name: str, *, default: str) -> str:
    image = env.get(name) or default
    if not _IMAGE.fullmatch(image):
        raise BadRequest(
            f"{name} must be the name of an image, such as rlm-sandbox or rlm-sandbox:full, found {image!r}"
        )
    return image


def _engine(env: Mapping[str, str], name: str) -> str | None:
    address = env.get(name) or None
    if address is not None and not address.startswith(_ENGINES):
        raise BadRequest(f"{name} must be an address such as unix:///var/run/docker.sock, found {address!r}")
    return address


def _base_url(env: Mapping[str, str], name: str, *, default: str) -> str:
    """Never quoted when it is wrong: it may hold a password."""
    url = (env.get(name) or default).strip().rstrip("/")
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadRequest(f"{name} must be the address of a server, such as http://127.0.0.1:8000/v1")
    return url


def _redis_url(env: Mapping[str, str], name: str) -> str | None:
    url = (env.get(name) or "").strip()
    if not url:
        return None
    parts = _parts(url)
    if parts is None:
        is_usable = False
    elif parts.scheme == "unix":
        is_usable = len(parts.path) > 1
    else:
        database = parts.path.strip("/")
        is_usable = parts.scheme in ("redis", "rediss") and (not database or database.isdecimal())
    if not is_usable:
        raise BadRequest(f"{name} must be redis://host:port/0, rediss://host:port/0 or unix:///path/to/socket")
    return url


def _parts(url: str) -> SplitResult | None:
    """None for what is no URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # looks at it only now
    except ValueError:
        return None
    return parts if url.isprintable() and " " not in url else None


def _one_of(env: Mapping[str, str], name: str, choices: tuple[_Choice, ...]) -> _Choice:
    """The first is the default."""
    text = env.get(name)
    if not text:
        return choices[0]
    for choice in choices:
        if choice == text:
            return choice
    raise BadRequest(f"{name} must be {' or '.join(choices)}, found {text!r}")


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "")
    if text not in ("", "0", "1"):
        raise BadRequest(f"{name} must be 0 or 1, found {text!r}")
    return text == "1"
