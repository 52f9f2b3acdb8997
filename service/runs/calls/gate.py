"""The gate before a root run's model calls, and those of every run below it: once shut, none is begun any more.

A replica that is about to hand a run over shuts the gate and waits until nothing is in flight. What is asked for
afterwards waits for ever, which is: until the task that waits is cancelled, and the next replica asks for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class CallGate:
    """Counts the calls of one root run that are on their way."""

    def __init__(self) -> None:
        self.is_shut = False
        self._inside = 0
        self._is_idle = anyio.Event()

    def __repr__(self) -> str:
        return f"<CallGate {'shut' if self.is_shut else 'open'} inside={self._inside}>"

    @contextmanager
    def passed(self) -> Iterator[None]:
        """For the time of one attempt, from before its provider is asked until it is settled. Asked when `is_shut` is
        False; money may have been held long before."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._is_idle.set()
                self._is_idle = anyio.Event()

    async def wait_until_open(self) -> None:
        """Returns at once while the gate is open, and never when it is shut: it does not open again."""
        if self.is_shut:
            await anyio.sleep_forever()

    def shut(self) -> None:
        """From now on no call is begun."""
        self.is_shut = True

    async def wait_until_idle(self) -> None:
        """Until nothing is inside."""
        while self._inside:
            await self._is_idle.wait()
