"""Places that tenants share on a replica, given out in a fair line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from service.ids import TenantId
from service.runs.dispatch.fair_line import FairLine


class FairPlaces:
    """So many at once, of all tenants together."""

    def __init__(self, total: int) -> None:
        assert total > 0, "without a place nobody would ever come out of the line"
        self._total = total
        self._free = total
        self._line: FairLine[anyio.Event] = FairLine()

    def __repr__(self) -> str:
        return f"<FairPlaces {self._total - self._free} of {self._total} taken, {self._line!r}>"

    @property
    def free(self) -> int:
        """How many can be had at once; none while somebody waits."""
        return 0 if len(self._line) else self._free

    @property
    def is_idle(self) -> bool:
        """Nobody has a place or waits for one."""
        return self._free == self._total and not len(self._line)

    async def take(self, tenant: TenantId, *, cost: int = 1) -> None:
        """Wait for a place; whoever has it calls `give_back`. A costly one delays the tenant's next."""
        turn = anyio.Event()
        ticket = self._line.join(tenant, turn, cost=cost)
        self._grant()
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give_back()
            else:
                self._line.leave(ticket)
            raise

    def give_back(self) -> None:
        """Let the next one have it."""
        self._free += 1
        assert self._free <= self._total, "a place was given back twice"
        self._grant()

    @asynccontextmanager
    async def taken(self, tenant: TenantId, *, cost: int = 1) -> AsyncIterator[None]:
        """Hold a place for the time of the block, after waiting for it."""
        await self.take(tenant, cost=cost)
        try:
            yield
        finally:
            self.give_back()

    def _grant(self) -> None:
        while self._free and len(self._line):
            self._free -= 1
            self._line.serve().item.set()
