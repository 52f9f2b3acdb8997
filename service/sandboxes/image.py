"""The sandbox image as sandboxes see it: a compiled copy with nothing beside it, readable to every uid.

Where the service is installed there are other packages beside `sandbox_image`, and perhaps a home directory above it
that only its owner may enter. The copy is named by its content, so replicas of different versions do not meet.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sandbox_image import protocol
from service.sandboxes.port import SandboxStartFailed
from service.store.errors import disk_failed

_COMPILE_DEADLINE_S = 60.0


def stage_image(runtime_directory: Path, python: Path) -> Path:
    """The package's copy for this interpreter, made if it is not there yet. Blocks; a fraction of a second.

    Raises:
        SandboxStartFailed: the copy cannot be compiled.
        StoreFailed: the disk does not take it.
    """
    source = Path(protocol.__file__).parent
    files = sorted(source.glob("*.py"))
    parent = runtime_directory / f"image-{_digest(python, files)}"
    if not parent.is_dir():
        try:
            runtime_directory.mkdir(parents=True, exist_ok=True)
            _make(parent, source.name, files, python)
        except OSError as exc:
            raise disk_failed(exc, f"copy the sandbox image to {parent}") from exc
        except subprocess.SubprocessError as exc:
            raise SandboxStartFailed(f"the sandbox image could not be copied to {parent}: {exc}") from exc
    return parent / source.name


def _digest(python: Path, files: list[Path]) -> str:
    digest = hashlib.sha256(str(python).encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _make(parent: Path, name: str, files: list[Path], python: Path) -> None:
    """Whole or not at all. Compiled here, because the sandbox cannot write what it compiles."""
    new = Path(tempfile.mkdtemp(prefix="image-new-", dir=parent.parent))
    try:
        package = new / name
        package.mkdir()
        for file in files:
            shutil.copyfile(file, package / file.name)
        command = [str(python), "-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", name]
        subprocess.run(command, cwd=new, env={}, check=True, capture_output=True, timeout=_COMPILE_DEADLINE_S)  # noqa: S603
        for path in (new, *new.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with contextlib.suppress(OSError):  # another replica was faster
            os.rename(new, parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
