"""The other side: the reference library `rlms` in an environment and a process of its own."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from benchmarks.worker import ROOT, Worker, started

CACHE = ROOT / ".cache" / "benchmarks"
REQUIREMENTS = Path(__file__).with_name("reference_requirements.txt")
INSTALL_TIMEOUT_S = 600


class ReferenceAbsent(Exception):
    """The reference library cannot be installed here; the text says why."""


def install() -> Path:
    """The interpreter of an environment with the reference library, by hash from the lock; made where it is missing.

    Raises:
        ReferenceAbsent
    """
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    home = CACHE / f"reference-{wanted}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=not _has_uv(), symlinks=True)
    locked = ["--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(REQUIREMENTS)]
    command = ["uv", "pip", "install", "--python", str(python)] if _has_uv() else [str(python), "-m", "pip", "install"]
    try:
        subprocess.run([*command, *locked], check=True, timeout=INSTALL_TIMEOUT_S, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        raise ReferenceAbsent(f"the reference library cannot be installed from the package index: {error}") from error
    (home / "complete").touch()
    return python


@asynccontextmanager
async def open_reference(python: Path, *, model_url: str, image: str, scratch: Path) -> AsyncIterator[Worker]:
    """The reference library, ready to be measured. It sees none of our variables and writes below `scratch` only."""
    await anyio.Path(scratch).mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "RLM_DOCKER_WORKSPACE_DIR": str(scratch / "workspaces"),
        "BENCHMARK_MODEL_URL": model_url,
        "BENCHMARK_REFERENCE_IMAGE": image,
    }
    environment |= {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    command = [str(python), "-m", "benchmarks.reference_worker"]
    async with started(
        "the reference library", command, environment, cwd=scratch, log=CACHE / "reference.log"
    ) as worker:
        yield worker


def _has_uv() -> bool:
    """Run it: a version switcher's shim may exist without a uv behind it."""
    try:
        return subprocess.run(["uv", "--version"], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
