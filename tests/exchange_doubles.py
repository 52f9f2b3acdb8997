"""What tests put before the exchanges of a store: `open_store(…, over=partial(Counting, sent))`.

All of the store goes through them, retries and scripts that are loaded too; what goes over other handles to the same
server does not.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import anyio
from redis.exceptions import ResponseError

from service.store.errors import StoreFailed
from service.store.exchanges import Command, MakesExchanges, Reply


@dataclass(frozen=True, slots=True)
class Counting:
    """Notes of each request how many commands it has."""

    sent: list[int]
    exchanges: MakesExchanges

    async def make(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        self.sent.append(len(commands))
        return await self.exchanges.make(commands)


@dataclass(frozen=True, slots=True)
class Acting:
    """Does something before or after each request that begins with a command of this name."""

    name: str
    when: Literal["before", "after"]
    act: Callable[[], Awaitable[object]]
    exchanges: MakesExchanges

    async def make(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        is_meant = commands[0][0] == self.name
        if is_meant and self.when == "before":
            await self.act()
        replies = await self.exchanges.make(commands)
        if is_meant and self.when == "after":
            await self.act()
        return replies


@dataclass(frozen=True, slots=True)
class Ahead:
    """A server whose clock is ahead, as far as it is asked for the time: scripts go by the true one."""

    seconds: float
    exchanges: MakesExchanges

    async def make(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        replies = await self.exchanges.make(commands)
        return [
            self._moved(reply) if command == ("TIME",) else reply
            for command, reply in zip(commands, replies, strict=True)
        ]

    def _moved(self, reply: Reply | ResponseError) -> Reply:
        match reply:
            case [bytes(seconds), bytes(microseconds)]:
                return [b"%d" % (int(seconds) + self.seconds), microseconds]
            case _:
                raise AssertionError(f"TIME replies two numbers, not {reply!r}")


@dataclass(slots=True)
class Allowance:
    """How many requests whoever is to be killed makes yet."""

    requests_left: int = 1 << 30
    task_id: int | None = None
    """Whose they are; None: everybody's."""


@dataclass(frozen=True, slots=True)
class Dying:
    """Makes as many requests as are left, and no more."""

    allowance: Allowance
    exchanges: MakesExchanges

    async def make(self, commands: Sequence[Command]) -> list[Reply | ResponseError]:
        if self.allowance.task_id in (None, anyio.get_current_task().id):
            self.allowance.requests_left -= 1
        if self.allowance.requests_left < 0:
            raise StoreFailed("killed here")
        return await self.exchanges.make(commands)
