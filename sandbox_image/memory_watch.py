"""How much memory a kernel holds, as seen from outside.

The limit that a kernel has on itself (RLIMIT_DATA) counts what it may write to. Pages that were written and then made
read-only are not counted any more, nor are the tables that describe an address space, so the supervisor looks too. On
macOS, where no such limit holds, nothing else bounds a kernel.
"""

import time
from collections.abc import Callable

WATCH_INTERVAL_S = 0.2
_ALLOWANCE_BYTES = 64 << 20
"""For what is no data: the stack, some tables."""


class MemoryWatch:
    """Over one kernel. Where nothing is told of it (/proc is hidden), there is nothing to look at."""

    def __init__(self, held_bytes: Callable[[], int | None], memory_bytes: int) -> None:
        """`held_bytes` looks; None when it sees nothing."""
        self._held_bytes = held_bytes
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
