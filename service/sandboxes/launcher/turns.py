"""Whose request is worked on: of one client only so many at once, so that another finds the engine free."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True, eq=False)
class _Queue:
    places: anyio.Semaphore
    users: int = field(default=0)
    """Who is at work or waits."""


class Turns:
    """The turns of all clients, each known by a number."""

    def __init__(self, most_of_one: int) -> None:
        self._most = most_of_one
        self._queues: dict[int, _Queue] = {}

    @asynccontextmanager
    async def of(self, client: int) -> AsyncIterator[None]:
        """Inside the block it is the client's turn; its requests come to it in the order in which they came."""
        queue = self._queues.setdefault(client, _Queue(anyio.Semaphore(self._most)))
        queue.users += 1
        try:
            async with queue.places:
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[client]

    def __repr__(self) -> str:
        users = sum(queue.users for queue in self._queues.values())
        return f"<Turns: {users} requests of {len(self._queues)} clients>"
