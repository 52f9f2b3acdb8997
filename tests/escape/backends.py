"""Where cells run here: the backends that this machine has, and of what versions."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from service.sandboxes.docker_launcher import Launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.levels import LevelName
from service.sandboxes.port import Provider
from service.sandboxes.process_provider import ProcessProvider, _bubblewraps
from tests import machine
from tests.escape.case import LANDLOCK, PROCESS, RUNC, RUNSC, BackendName
from tests.escape.supervisor import subvert, subverted_image
from tests.sandboxes.docker_machine import build_image, containers_of, engine, launcher_process

REQUIRED: tuple[BackendName, ...] = (RUNC, RUNSC, PROCESS)
"""What CI must have. The landlock level is for machines that deny user namespaces."""
ALL: tuple[BackendName, ...] = (*REQUIRED, LANDLOCK)


def why_absent(name: BackendName) -> str | None:
    """None where cells can run on it."""
    match name:
        case "docker+runc":
            return machine.why_no_docker()
        case "docker+runsc":
            return machine.why_no_gvisor()
        case "process":
            return machine.why_no_bubblewrap()
        case "process-landlock":
            return machine.why_no_landlock() or machine.why_no_readable_python()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One that is open."""

    name: BackendName
    provider: Provider
    sessions: Path
    directory: Path

    @property
    def shows_session_at(self) -> str | None:
        """Where a cell sees its session directory; None where it sees it at the host's own path."""
        return None if self.name == LANDLOCK else "/rlm/session"

    def left_behind(self) -> list[str]:
        """What is still there of sandboxes that have ended."""
        found = [f"a session directory {path.name}" for path in self.sessions.iterdir()]
        if self.name in (RUNC, RUNSC):
            with engine() as client:
                found += [f"a container {container['Id'][:12]}" for container in containers_of(client, self.directory)]
        return found


@contextmanager
def open_backend(name: BackendName, directory: Path, *, subverted: bool = False) -> Iterator[Backend]:
    """For the time of the block. `directory` is the suite's own. The supervisor of a `subverted` one does what cells
    tell it to (`supervisor`)."""
    sessions = directory / "sessions"
    sessions.mkdir(mode=0o755)
    if name == "docker+runc" or name == "docker+runsc":
        build_image()
        image = machine.SANDBOX_IMAGE
        more: tuple[str, ...] = ()
        with ExitStack() as stack:
            if subverted:
                image = stack.enter_context(subverted_image(image))
                more = ("--image", image)
            stack.enter_context(launcher_process(directory, *more))
            provider = DockerProvider(
                Launcher(directory / "launcher.sock"),
                sessions=sessions,
                image=image,
                runtime="runc" if name == RUNC else "runsc",
            )
            yield Backend(name=name, provider=provider, sessions=sessions, directory=directory)
        return
    level = LevelName.NAMESPACES if name == PROCESS else LevelName.LANDLOCK
    python = None if name == PROCESS else machine.READABLE_PYTHON
    local = ProcessProvider(directory / "runtime", permitted=[level], python=python)
    if subverted:
        anyio.run(local.isolation)
        assert local._found is not None
        subvert(local._found[0], directory)
    yield Backend(name=name, provider=local, sessions=sessions, directory=directory)


def versions() -> dict[str, str]:
    """Of everything that a row's outcome may depend on."""
    bubblewraps = _bubblewraps()
    found = {
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "bwrap": _first_line([str(bubblewraps[0]), "--version"]) if bubblewraps else "absent",
    }
    if machine.why_no_docker() is None:
        with engine() as client:
            told = client.version()
            components = {part["Name"]: part["Version"] for part in told.get("Components", ())}
            found["Docker"] = told["Version"]
            found["runc"] = components.get("runc", "unknown")
            runtimes = client.info().get("Runtimes", {})
        path = (runtimes.get("runsc") or {}).get("path")
        found["runsc"] = _first_line([path, "--version"]) if path and shutil.which(path) else "absent"
    return found


def _first_line(words: list[str]) -> str:
    environment = {"PATH": os.defpath}
    told = subprocess.run(
        words, capture_output=True, text=True, timeout=20, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    lines = (told.stdout or told.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def user() -> str:
    return "root" if os.geteuid() == 0 else f"uid {os.geteuid()}, {sys.platform}"
