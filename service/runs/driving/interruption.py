"""Interruption: how the outstanding command is broken off when the run is to stop."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TypeVar

import anyio

from service.loop.machine import wants_interrupt
from service.runs.driving.recorder import Recorder

Value = TypeVar("Value")


class Stopped(Enum):
    """Instead of a result: the command was broken off because the run is to stop."""

    STOPPED = "stopped"


STOPPED = Stopped.STOPPED


class Interruption:
    """Of one run's commands, of which one is outstanding at a time: asks after every event whether the loop wants it
    broken off."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._interrupt: Callable[[], None] = _nothing
        recorder.on_applied = self._interrupt_if_wanted

    @contextmanager
    def by(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Break off by calling this, for the time of the block; at once where it is wanted already, and only once."""
        self._interrupt = interrupt
        self._interrupt_if_wanted()
        try:
            yield
        finally:
            self._interrupt = _nothing

    async def unless_stopped(self, act: Callable[[], Awaitable[Value]]) -> Value | Stopped:
        """What the act returns, or `STOPPED` when the loop wants the due command broken off first."""
        with anyio.CancelScope() as scope, self.by(scope.cancel):
            return await act()
        return STOPPED

    def _interrupt_if_wanted(self) -> None:
        if wants_interrupt(self._recorder.state):
            interrupt, self._interrupt = self._interrupt, _nothing
            interrupt()


def _nothing() -> None:
    """No command is outstanding that could be interrupted."""
