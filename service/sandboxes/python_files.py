"""Which files the base interpreter needs, so that a sandbox shows these and nothing else of the host.

The interpreter is the base one, not a virtual environment's: the sandbox has the standard library and no packages.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from service.sandboxes.port import SandboxStartFailed

_TRACE_DEADLINE_S = 20.0
_NOT_NEEDED = ("_tkinter", "_test", "_xx", "xxlimited", "_ctypes_test")
_LOADER_CACHE = Path("/etc/ld.so.cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFiles:
    """The interpreter and everything it reads."""

    executable: Path
    paths: tuple[Path, ...]
    """The executable, the standard library, and each shared library at the path where the loader looks for it."""
    packages: tuple[Path, ...]
    """Directories of installed packages below those paths, to be hidden."""


def find_python_files() -> PythonFiles:
    """Ask the dynamic loader which libraries the interpreter and its extension modules load. Blocks; a fraction of a
    second.

    Raises:
        SandboxStartFailed: the interpreter could not even be traced.
    """
    executable = base_executable()
    standard_library = Path(sysconfig.get_path("stdlib", vars=_base_variables()))
    extensions = _extension_modules(standard_library)
    libraries = _libraries(executable, extensions)
    paths = {executable, standard_library, *libraries, *(path.parent for path in extensions)}
    if _LOADER_CACHE.exists():
        paths.add(_LOADER_CACHE)
    outermost = tuple(sorted(path for path in paths if not any(parent in paths for parent in path.parents)))
    hidden = (standard_library / "site-packages", standard_library / "dist-packages")
    return PythonFiles(executable=executable, paths=outermost, packages=tuple(path for path in hidden if path.is_dir()))


def base_executable() -> Path:
    """The interpreter that this virtual environment, if it is one, was made from."""
    found = getattr(sys, "_base_executable", None) or sys.executable
    return Path(os.path.realpath(found))


def _base_variables() -> dict[str, str]:
    return {"installed_base": sys.base_prefix, "base": sys.base_prefix, "platbase": sys.base_exec_prefix}


def _extension_modules(standard_library: Path) -> list[Path]:
    directory = Path(sysconfig.get_config_var("DESTSHARED") or standard_library / "lib-dynload")
    return sorted(path for path in directory.glob("*.so") if not path.name.startswith(_NOT_NEEDED))


def _libraries(executable: Path, extensions: list[Path]) -> set[Path]:
    """The loader in tracing mode lists what it would load and starts nothing (ld.so(8), what ldd does)."""
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_PRELOAD": ":".join(str(path) for path in extensions)}
    try:
        traced = subprocess.run(  # noqa: S603 - our own interpreter
            [str(executable)], env=environment, capture_output=True, check=False, timeout=_TRACE_DEADLINE_S
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SandboxStartFailed(f"the dynamic loader did not list the libraries of {executable}") from exc
    found: set[Path] = set()
    for line in traced.stdout.decode(errors="replace").splitlines():
        words = line.strip().removesuffix(")").rpartition(" (")[0].split(" => ")
        path = Path(words[-1].strip())
        if path.is_absolute() and path.exists():
            found.add(path)
    return found - set(extensions)
