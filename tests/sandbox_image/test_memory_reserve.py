"""The limit that keeps a cell's memory bounded. (Under gVisor the sandbox contract proves it.)"""

import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def said(code: str) -> str:
    """What a process of its own prints: limits are for good."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_linux_limits_private_memory() -> None:
    """Where RLIMIT_DATA limits, which is tried, it is the one that is set, hard limit included; the rest stays open."""
    code = (
        "import resource\nfrom sandbox_image.memory_reserve import MemoryReserve\n"
        "reserve = MemoryReserve()\nreserve.limit(256 << 20)\n"
        "print(resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_AS))\n"
        "reserve.make_room(1 << 30)\nprint(resource.getrlimit(resource.RLIMIT_DATA))"
    )
    whole = (256 << 20, 256 << 20)
    open_limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert said(code) == f"{whole} {open_limits}\n{whole}"
