"""Virtual time: an event loop on which waiting takes none. When nothing can go on, its clock jumps to the next timer.

For what consists of timers and doubles alone: a server or a thread would be late by hours.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

Value = TypeVar("Value")


class _Jumping(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.clock += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.clock


def run_in_virtual_time(main: Callable[[], Awaitable[Value]]) -> Value:
    """What it returns; the clock of its event loop begins at 0."""
    return anyio.run(main, backend="asyncio", backend_options={"loop_factory": _VirtualLoop})
