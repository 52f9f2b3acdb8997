"""How much memory a kernel holds, as seen from outside.

The limit that a kernel has on itself (RLIMIT_DATA) counts what it may write to. Pages that were written and then made
read-only are not counted any more, nor are the tables that describe an address space, so the supervisor looks too.
"""

import time

WATCH_INTERVAL_S = 0.2
_ALLOWANCE_BYTES = 64 << 20
"""For what is no data: the stack, some tables."""
_FILE_BYTES_A_TABLE_BYTE = 256
"""Mapped texts need tables as well: one byte for 512 at best."""


class MemoryWatch:
    """Over one kernel. Where /proc is hidden from the supervisor too (Landlock), there is nothing to look at."""

    def __init__(self, pid: int, memory_bytes: int) -> None:
        self._path = f"/proc/{pid}/status"
        self._most_bytes = memory_bytes + _ALLOWANCE_BYTES
        self._next_look = 0.0
        self.is_possible = self._held_bytes() is not None

    def finds_too_much(self) -> bool:
        """Looks at most once in `WATCH_INTERVAL_S`."""
        now = time.monotonic()
        if not self.is_possible or now < self._next_look:
            return False
        self._next_look = now + WATCH_INTERVAL_S
        held_bytes = self._held_bytes()
        return held_bytes is not None and held_bytes > self._most_bytes

    def _held_bytes(self) -> int | None:
        try:
            with open(self._path, "rb") as file:
                return held_bytes(file.read())
        except OSError:  # hidden, or the kernel has ended
            return None


def held_bytes(status: bytes) -> int | None:
    """What a `/proc/<pid>/status` says that no file backs; None where it does not say (gVisor)."""
    sizes: dict[bytes, int] = {}
    for line in status.splitlines():
        name, _, rest = line.partition(b":")
        words = rest.split()
        if words[1:] == [b"kB"] and words[0].isdigit():
            sizes[name] = int(words[0]) << 10
    if b"RssAnon" not in sizes:
        return None
    tables = sizes.get(b"VmPTE", 0) - sizes.get(b"RssFile", 0) // _FILE_BYTES_A_TABLE_BYTE
    return sizes[b"RssAnon"] + sizes.get(b"RssShmem", 0) + sizes.get(b"VmSwap", 0) + max(0, tables)
