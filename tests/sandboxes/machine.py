"""What this machine has for the tests of this room."""

import ctypes
import os
import shutil
import sys
from functools import cache
from pathlib import Path

from service.sandboxes.python_files import base_executable

_LANDLOCK_CREATE_RULESET = 444


def _is_readable_to_all(executable: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in executable.parents)


def _readable_python() -> Path | None:
    """A Python of our own version that every uid can read, where no mount namespace shows a sandbox ours."""
    name = f"python3.{sys.version_info.minor}"
    found = shutil.which(name, path="/usr/bin:/usr/local/bin")
    candidates = [base_executable(), *([Path(found)] if found else [])]
    return next((path.resolve() for path in candidates if _is_readable_to_all(path.resolve())), None)


READABLE_PYTHON = _readable_python()


@cache
def why_no_landlock() -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1) < 4:
        return "no Landlock of ABI 4 or newer"
    if os.geteuid() == 0 and READABLE_PYTHON is None:
        return "no Python that every uid can read"
    return None
