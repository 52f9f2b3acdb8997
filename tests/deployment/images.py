"""The images that the tests here run, built as on a machine whose builds reach no index: out of wheels by hash.

`python -P -m tests.deployment.images` builds them ahead of the tests.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machine import DOCKER_HOST, ROOT, SANDBOX_IMAGE, SERVICE_IMAGE

WHEELS = ROOT / ".cache" / "wheels"
FULL_IMAGE = f"{SANDBOX_IMAGE}-full"
OPERATORS_PACKAGE = "more-itertools"
"""Which an operator might choose: small, and in no list of ours."""
BUILD_DEADLINE_S = 900


def build_service_image() -> None:
    """Of this checkout; a second when nothing changed."""
    _build("requirements-image.txt", (), "make_api_image.sh", SERVICE_IMAGE)


def build_full_image() -> None:
    """The sandbox image with packages."""
    _build("sandbox-packages.txt", (OPERATORS_PACKAGE,), "make_sandbox_image.sh", FULL_IMAGE, "full", OPERATORS_PACKAGE)


def _build(listed: str, packages: tuple[str, ...], script: str, *arguments: str) -> None:
    with _alone():
        base = _run("sh", "deploy/base_image.sh").strip()
        wheels = _wheels(base, ROOT / "deploy" / listed, packages)
        _run("sh", f"deploy/{script}", *arguments, BASE_IMAGE=base, WHEELS=str(wheels))


def _wheels(base: str, pinned: Path, packages: tuple[str, ...]) -> Path:
    """Fetched once for a base and a list."""
    base_id = _run("docker", "image", "inspect", "--format", "{{.Id}}", base)
    wanted = hashlib.sha256("\0".join([base_id, pinned.read_text(), *packages]).encode()).hexdigest()[:16]
    directory = WHEELS / f"{pinned.stem}-{wanted}"
    if not directory.exists():
        new = directory.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        words = ["--base", base, "--list", str(pinned), "--out", str(new), *packages]
        _run(sys.executable, "deploy/fetch_wheels.py", *words)
        new.rename(directory)
    return directory


@contextmanager
def _alone() -> Iterator[None]:
    """One of the processes that run the tests builds; the others find it built."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    with (WHEELS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*words: str, **more: str) -> str:
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | {"DOCKER_HOST": DOCKER_HOST} | more,
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


if __name__ == "__main__":
    build_service_image()
    build_full_image()
