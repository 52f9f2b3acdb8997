"""What a sandbox promises here and what it cannot, and whom it may therefore serve. Pure.

`doctor` and `GET /v1/capabilities` show `capabilities`; whoever opens the service to callers asks `check_exposure`
first. Nothing is lowered to make a configuration work: it is refused, with the one thing to do.
"""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from service.sandboxes.port import Isolation, SandboxRefused


class Held(StrEnum):
    """How far a promise goes."""

    HELD = "held"
    LIMITED = "limited"
    NOT_HELD = "not_held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One thing that code in a sandbox must not be able to do."""

    name: str
    held: Held
    text: str
    """One sentence for people: by what, or what is lacking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Of the sandboxes that are started here."""

    provider: str
    level: str
    multi_tenant: bool
    """Whether tenants who do not trust each other may share this machine."""
    promises: tuple[Promise, ...]

    @property
    def shortcomings(self) -> tuple[str, ...]:
        """What is not held, or not wholly, one line each."""
        return tuple(f"{promise.name}: {promise.text}" for promise in self.promises if promise.held is not Held.HELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Who may have code run here."""

    bind_host: str | None
    """The address that the public API listens at; None where there is none (the command line)."""
    tenants_share: bool
    """Whether there is more than one tenant, or may come to be."""


def capabilities(isolation: Isolation) -> Capabilities:
    """What is in force, promise by promise."""
    return Capabilities(
        provider=isolation.provider,
        level=isolation.level,
        multi_tenant=isolation.multi_tenant,
        promises=tuple(
            Promise(name=name, held=held, text=text)
            for name, levels in _PROMISES.items()
            for held, text in [levels.get(isolation.level, _UNKNOWN)]
        ),
    )


def check_exposure(isolation: Isolation, exposure: Exposure) -> None:
    """Raises `SandboxRefused` where this level may not serve these callers."""
    if (reason := refusal(isolation, exposure)) is not None:
        raise SandboxRefused(reason, data={"level": isolation.level})


def refusal(isolation: Isolation, exposure: Exposure) -> str | None:
    """Why sandboxes at this level may not serve them, and what to do; None where they may."""
    is_open = exposure.bind_host is not None and not is_loopback(exposure.bind_host)
    if isolation.provider == "process" and (exposure.tenants_share or is_open):
        whom = "several tenants" if exposure.tenants_share else f"callers at {exposure.bind_host}"
        return (
            f"process sandboxes ({isolation.level}) never serve {whom}: set RLM_SANDBOX=docker, or serve one tenant "
            "on a loopback address"
        )
    if exposure.tenants_share and not isolation.multi_tenant:
        return (
            f"{isolation.level} shares Linux between tenants: set RLM_DOCKER_RUNTIME=runsc (docs/docker.md has how to "
            "install gVisor), or RLM_TRUST_RUNC=1 if your tenants trust each other"
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("/")  # a unix socket


_HELD, _LIMITED, _NOT = Held.HELD, Held.LIMITED, Held.NOT_HELD
_SHARED_LINUX = "sandboxes share this machine's Linux: a flaw that an allowed system call reaches is a way out"
_BOUNDED_PLACES = "the two places that can be written to are bounded memory, in bytes and files"
_DISK_OF_THE_HOST = "a cell can fill the disk of the data directory: one file has a cap, their number has none"
_TIME_ONLY = "bounded in time by each cell's limit; while it runs it may use every processor"
_UNKNOWN = (_NOT, "nothing is known of this level")
_NOTHING = (_NOT, "no sandbox: cells run with all rights of the service")
_PROMISES: dict[str, dict[str, tuple[Held, str]]] = {
    "linux": {
        "runsc": (_HELD, "gVisor's own kernel answers system calls; a flaw in Linux is not within a cell's reach"),
        "runc": (
            _NOT,
            "containers share this machine's Linux: a flaw that the allowed system calls reach is a way out",
        ),
        "namespaces": (_NOT, _SHARED_LINUX),
        "landlock": (_NOT, _SHARED_LINUX),
        "seatbelt": (
            _NOT,
            "sandboxes share this machine's macOS, and every system call is open to them: a flaw in it is a way out",
        ),
        "none": _NOTHING,
    },
    "host_files": {
        "runsc": (_HELD, "a root of its own, read-only; of the host the session directory, read-only"),
        "runc": (_HELD, "a root of its own, read-only; of the host the session directory, read-only"),
        "namespaces": (
            _LIMITED,
            "only Python's files and the session directory, read-only; mountinfo names host paths",
        ),
        "landlock": (_LIMITED, "no file of the host can be opened, but that a path exists can be seen"),
        "seatbelt": (
            _LIMITED,
            "of the host only the files of macOS, of Python and of the session can be read",
        ),
        "none": _NOTHING,
    },
    "network": {
        "runsc": (_HELD, "no device, no address, no socket that leads out"),
        "runc": (_HELD, "no device, no address, no socket that leads out"),
        "namespaces": (_HELD, "no device, no address, no socket that leads out"),
        "landlock": (_LIMITED, "seccomp refuses every socket; the network device itself is the host's"),
        "seatbelt": (_LIMITED, "a socket connects to the session's own two and no other; the device is the host's"),
        "none": _NOTHING,
    },
    "processes": {
        "runsc": (_HELD, "sees and signals its own only"),
        "runc": (_HELD, "sees and signals its own only"),
        "namespaces": (_HELD, "sees and signals its own only"),
        "landlock": (_LIMITED, "can signal none, but the process table is the host's"),
        "seatbelt": (
            _LIMITED,
            "can signal and start none, but the table is the host's; threads are not counted",
        ),
        "none": _NOTHING,
    },
    "memory": {
        "runsc": (_HELD, "bounded by the container, whatever runs in it; without swap"),
        "runc": (_HELD, "bounded by the container, whatever runs in it; without swap"),
        "namespaces": (_LIMITED, "bounded for each of its three processes, not for all of them together"),
        "landlock": (_LIMITED, "bounded for each of its three processes; evading it on purpose is not noticed"),
        "seatbelt": (_NOT, "watched: too much ends the interpreter, but what it takes between two looks has no bound"),
        "none": _NOTHING,
    },
    "disk": {
        "runsc": (_LIMITED, "what can be written to is bounded memory in bytes; too many files end the sandbox"),
        "runc": (_HELD, _BOUNDED_PLACES),
        "namespaces": (_HELD, "what can be written to is bounded memory in bytes; too many files end the interpreter"),
        "landlock": (_NOT, _DISK_OF_THE_HOST),
        "seatbelt": (_NOT, _DISK_OF_THE_HOST),
        "none": _NOTHING,
    },
    "processor": {
        "runsc": (_HELD, "one processor, by quota"),
        "runc": (_HELD, "one processor, by quota"),
        "namespaces": (_LIMITED, _TIME_ONLY),
        "landlock": (_LIMITED, _TIME_ONLY),
        "seatbelt": (_LIMITED, _TIME_ONLY),
        "none": _NOTHING,
    },
    "side_channels": dict.fromkeys(
        ("runsc", "runc", "namespaces", "landlock", "seatbelt"),
        (_NOT, "caches and memory bandwidth are shared with whatever else runs on the machine"),
    )
    | {"none": _NOTHING},
}
"""Promise → level → how far it goes. The escape suite (`make escape`) tries each of them."""
