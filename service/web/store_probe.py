"""Whether the store answers, asked so that nobody waits long for it and nobody's asking piles up."""

from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from service.store.errors import StoreFailed

READY_WITHIN_S = 2.0
"""A load balancer does not wait longer either."""


class StoreProbe:
    """One question in flight at a time, whoever waits for it: a command of the store cannot be cancelled."""

    def __init__(self, ask: Callable[[], Awaitable[object]], tasks: anyio.abc.TaskGroup) -> None:
        self._ask = ask
        self._tasks = tasks
        self._in_flight: anyio.Event | None = None
        self._trouble: str | None = None

    async def trouble(self) -> str | None:
        """Why the store cannot be used now; None when it can. Within `READY_WITHIN_S`."""
        if self._in_flight is None:
            self._in_flight = anyio.Event()
            self._tasks.start_soon(self._fly, self._in_flight)
        in_flight = self._in_flight
        with anyio.move_on_after(READY_WITHIN_S):
            await in_flight.wait()
            return self._trouble
        return f"the store has not answered for {READY_WITHIN_S:.0f} seconds"

    async def _fly(self, landed: anyio.Event) -> None:
        try:
            await self._ask()
            self._trouble = None
        except StoreFailed:
            self._trouble = "the store cannot be reached"
        finally:
            self._in_flight = None
            landed.set()
