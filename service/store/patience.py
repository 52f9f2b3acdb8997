"""Patience: how long a replica waits for its server, and how much less once it is to end.

A write that has been sent is waited for, whatever is cancelled meanwhile: breaking it off would leave its outcome
unknown. So the bound on that wait is also the bound on everything that a silent server can hold up, and a replica that
is told to end lowers it: for what is under way at that moment, and for what is still to be written on the way out.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import anyio

HURRIED_S = 3.0
"""What one command may still take then: a server that is well needs a thousandth of it."""


class Patience:
    """With one server. Its scopes do not shield: they are entered inside of what does."""

    def __init__(self, command_s: float) -> None:
        self._command_s = command_s
        self._ends_at = math.inf
        self._waits: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Patience waits={len(self._waits)} ends_at={self._ends_at:.1f}>"

    def for_reply(self) -> AbstractContextManager[anyio.CancelScope]:
        """Around one exchange: left by cancellation when it has taken too long."""
        return self._bounded(anyio.current_time() + self._command_s)

    def for_turn(self) -> AbstractContextManager[anyio.CancelScope]:
        """Around waiting for a connection that others use: without bound, as long as the replica is not to end."""
        return self._bounded(math.inf)

    def end_after(self, seconds: float) -> None:
        """Nothing waits beyond that, from now, for more than `HURRIED_S`. Once said it is not taken back."""
        self._ends_at = min(self._ends_at, anyio.current_time() + seconds)
        for scope in self._waits:
            scope.deadline = min(scope.deadline, self._latest())

    @contextmanager
    def _bounded(self, deadline: float) -> Iterator[anyio.CancelScope]:
        scope = anyio.CancelScope(deadline=min(deadline, self._latest()))
        self._waits.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._waits.discard(scope)

    def _latest(self) -> float:
        return max(self._ends_at, anyio.current_time() + HURRIED_S)
