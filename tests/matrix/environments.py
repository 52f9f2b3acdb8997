"""An environment per client below `.cache/matrix`, from its lock, made once for each state of the lock."""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.machine import ROOT

CACHE = Path(ROOT) / ".cache" / "matrix"
REQUIREMENTS = Path(__file__).with_name("requirements")
INSTALL_TIMEOUT_S = 600


class ClientAbsent(Exception):
    """The client cannot be installed here."""


def python_of(client: str) -> Path:
    """The interpreter of its environment, which is made if there is none.

    Raises:
        ClientAbsent: the package index does not answer, or has not what is locked.
    """
    lock = REQUIREMENTS / f"{client}.txt"
    home = CACHE / f"{client}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True, symlinks=True)
    locked = ["--quiet", "--require-hashes", "--only-binary", ":all:", "-r", str(lock)]
    try:
        subprocess.run(
            [str(python), "-m", "pip", "install", *locked], check=True, timeout=INSTALL_TIMEOUT_S, stdout=sys.stderr
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise ClientAbsent(f"{client} cannot be installed from the package index: {exc}") from exc
    (home / "complete").touch()
    return python
