"""What the processes below this one take of the machine's memory, as /proc tells it."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


def memory_of_descendants() -> int:
    """Bytes in use by all processes below this one; a page that several of them share is counted once (PSS)."""
    children = _children_by_parent()
    return _total(children.get(os.getpid(), ()), children)


def _children_by_parent() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    return children


def memory_of(pids: Sequence[int]) -> int:
    """The same of these processes and all below them."""
    return _total(pids, _children_by_parent())


def _total(pids: Sequence[int], children: dict[int, list[int]]) -> int:
    total = 0
    waiting, seen = list(pids), set[int]()
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        waiting += children.get(pid, ())
        with contextlib.suppress(OSError):  # it may have ended
            total += field_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")
    return total


def forecast(used: Sequence[int], sessions: int) -> float:
    """What so many sessions will use, from what the first few did: the first brings what all share, each its own."""
    growth = (used[-1] - used[0]) / (len(used) - 1)
    return used[0] + growth * (sessions - 1)


def resident_bytes() -> int:
    """What this process has in memory now."""
    return field_bytes(Path("/proc/self/status").read_text(), "VmRSS")


def peak_bytes() -> int:
    """The most that it had since `restart_peak`."""
    return field_bytes(Path("/proc/self/status").read_text(), "VmHWM")


def restart_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def available_bytes() -> int:
    """What could be used without swapping."""
    return field_bytes(Path("/proc/meminfo").read_text(), "MemAvailable")


def field_bytes(text: str, name: str) -> int:
    """A field of a `/proc` file that counts in kB; 0 where it is missing."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    return 0
