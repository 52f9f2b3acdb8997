"""Which files the base interpreter needs, so that a sandbox shows these and nothing else of the host.

The interpreter is a base one, not a virtual environment's: the sandbox has the standard library and no packages.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from service.sandboxes.port import SandboxStartFailed

_TRACE_DEADLINE_S = 20.0
_NOT_NEEDED = ("_tkinter", "_test", "_xx", "xxlimited", "_ctypes_test")
_LOADER_CACHE = Path("/etc/ld.so.cache")


_WHERE = """
import json, os, sys
json.dump([sys.version.split()[0], os.path.dirname(os.__file__), [p for p in sys.path if p.endswith("lib-dynload")],
           sys.base_prefix], sys.stdout)
"""
_WHICH_ARE_LOADED = """
import ctypes, json, sys
for path in sys.argv[1:]:
    try:
        ctypes.CDLL(path)
    except OSError:
        pass
library = ctypes.CDLL(None)
names = []
if hasattr(library, "_dyld_image_count"):
    library._dyld_get_image_name.restype = ctypes.c_char_p
    names = [library._dyld_get_image_name(number) for number in range(library._dyld_image_count())]
json.dump([name.decode("utf-8", "surrogateescape") for name in names if name], sys.stdout)
"""
"""Asked on macOS of the loader itself, in a process that has loaded all extension modules. Of a loader that does not
tell, nothing is added to what a sandbox may read."""
_FRAMEWORK_PROGRAM = Path("Resources/Python.app/Contents/MacOS/Python")
_OF_MACOS = (Path("/System"), Path("/usr/lib"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFiles:
    """An interpreter and everything it reads."""

    executable: Path
    executables: tuple[Path, ...]
    """That one, and on macOS the program of a framework build that it turns itself into."""
    version: str
    paths: tuple[Path, ...]
    """The executable, the standard library, and each shared library at the path where the loader looks for it."""
    packages: tuple[Path, ...]
    """Directories of installed packages below those paths, to be hidden."""


def find_python_files(executable: Path, platform: str = sys.platform) -> PythonFiles:
    """Ask the interpreter where its library is, and the dynamic loader what it and its extension modules load.
    Blocks; a fraction of a second.

    Raises:
        SandboxStartFailed: the interpreter does not run.
    """
    version, library, dynload, prefix = json.loads(_output([str(executable), "-I", "-S", "-c", _WHERE], {}))
    standard_library = Path(library)
    extensions = [path for place in dynload for path in Path(place).glob("*.so")]
    extensions = sorted(path for path in extensions if not path.name.startswith(_NOT_NEEDED))
    executables = [executable]
    if platform == "darwin":
        executables += [path for path in [Path(prefix) / _FRAMEWORK_PROGRAM] if path.exists()]
        libraries = _libraries_on_macos(executable, extensions)
    else:
        libraries = _libraries(executable, extensions)
    paths = {*executables, standard_library, *libraries, *(path.parent for path in extensions)}
    if _LOADER_CACHE.exists():
        paths.add(_LOADER_CACHE)
    hidden = (standard_library / "site-packages", standard_library / "dist-packages")
    return PythonFiles(
        executable=executable,
        executables=tuple(executables),
        version=version,
        paths=tuple(sorted(path for path in paths if not any(parent in paths for parent in path.parents))),
        packages=tuple(path for path in hidden if path.is_dir()),
    )


def base_executable() -> Path:
    """The interpreter that this virtual environment, if it is one, was made from."""
    found: str = getattr(sys, "_base_executable", None) or sys.executable
    return Path(os.path.realpath(found))


def _libraries(executable: Path, extensions: list[Path]) -> set[Path]:
    """The loader in tracing mode lists what it would load and starts nothing (ld.so(8), what ldd does)."""
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_PRELOAD": ":".join(str(path) for path in extensions)}
    traced = _output([str(executable)], environment)
    found: set[Path] = set()
    for line in traced.decode(errors="replace").splitlines():
        words = line.strip().removesuffix(")").rpartition(" (")[0].split(" => ")
        path = Path(words[-1].strip())
        if path.is_absolute() and path.exists():
            found.add(path)
    return found - set(extensions)


def _libraries_on_macos(executable: Path, extensions: list[Path]) -> set[Path]:
    """Each by the name that the loader knows it by, and where that leads: Seatbelt looks at both."""
    asked = [str(executable), "-I", "-S", "-c", _WHICH_ARE_LOADED, *(str(path) for path in extensions)]
    named = [Path(name) for name in json.loads(_output(asked, {}))]
    own = [path for path in named if path.is_absolute() and not any(part in path.parents for part in _OF_MACOS)]
    return {found for path in own if path.exists() for found in (path, path.resolve())}


def _output(command: list[str], environment: dict[str, str]) -> bytes:
    try:
        return subprocess.run(  # noqa: S603 - an interpreter that the operator chose
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_TRACE_DEADLINE_S,
        ).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        raise SandboxStartFailed(f"the interpreter {command[0]} does not run here: {type(exc).__name__}") from exc
