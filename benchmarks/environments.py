"""Environments of the other sides: Python packages, by hash from a lock of their own, that are never ours."""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.worker import ROOT

CACHE = ROOT / ".cache" / "benchmarks"
INSTALL_TIMEOUT_S = 600


class OtherSideAbsent(Exception):
    """What ours is compared with cannot be installed here; the text says why."""


def install(name: str, requirements: Path) -> Path:
    """The interpreter of an environment with what the lock names; made where it is missing.

    Raises:
        OtherSideAbsent
    """
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    home = CACHE / f"{name}-{wanted}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=not _has_uv(), symlinks=True)
    locked = ["--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)]
    command = ["uv", "pip", "install", "--python", str(python)] if _has_uv() else [str(python), "-m", "pip", "install"]
    try:
        subprocess.run([*command, *locked], check=True, timeout=INSTALL_TIMEOUT_S, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        raise OtherSideAbsent(f"{requirements.name} cannot be installed from the package index: {error}") from error
    (home / "complete").touch()
    return python


def _has_uv() -> bool:
    """Run it: a version switcher's shim may exist without a uv behind it."""
    try:
        return subprocess.run(["uv", "--version"], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
