"""Leases: this replica's word that it drives its runs, renewed by one loop for all of them together.

A lease only says when others may take a run over; what keeps a replica that has lost one from writing is the epoch
(`store.fences`). So a replica that was paused does no harm before it notices, and it notices at its next renewal or its
next write, whichever comes first.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from service.ids import RunId
from service.journal.redis_journal import Journal
from service.store.rounds import tried_again

RENEWALS_PER_LEASE = 3
"""So that one or two that fail, or come late, lose nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    journal: Journal
    run_id: RunId
    epoch: int
    on_lost: Callable[[], None]


class Leases:
    """What this replica drives. One for all tenants."""

    def __init__(self, replica: str, *, for_s: float, hands_over: bool) -> None:
        """`replica` names this process and no other, ever; `for_s` is how long a lease lasts."""
        self.replica = replica
        self.for_s = for_s
        self.hands_over = hands_over
        """Whether what this replica cannot drive on is left for others (and itself, later); otherwise it is ended."""
        self._kept: dict[int, _Kept] = {}
        self._next = 0

    def __repr__(self) -> str:
        return f"<Leases of {self.replica} runs={len(self._kept)} for_s={self.for_s}>"

    @contextmanager
    def kept(self, journal: Journal, run_id: RunId, epoch: int, on_lost: Callable[[], None]) -> Iterator[None]:
        """Renew the lease for the time of the block; `on_lost` is told when somebody else has the run."""
        self._next += 1
        key = self._next
        self._kept[key] = _Kept(journal=journal, run_id=run_id, epoch=epoch, on_lost=on_lost)
        try:
            yield
        finally:
            del self._kept[key]

    def are_kept(self, run_id: RunId) -> bool:
        """Whether this replica renews the lease of the run."""
        return any(each.run_id == run_id for each in self._kept.values())

    async def keep_renewing(self) -> None:
        """Until cancelled. A store that fails is asked again: the runs' own writes say whether they were lost."""
        while True:
            await anyio.sleep(self.for_s / RENEWALS_PER_LEASE)
            with tried_again("leases_not_renewed"):
                await self.renew()

    async def renew(self) -> None:
        """Renew every lease once, a round trip for each tenant.

        Raises:
            StoreFailed: some may not be renewed.
        """
        by_journal: dict[Journal, list[_Kept]] = {}
        for each in self._kept.values():
            by_journal.setdefault(each.journal, []).append(each)
        for journal, kept in by_journal.items():
            lost = set(await journal.keep([(each.run_id, each.epoch) for each in kept], for_s=self.for_s))
            for each in kept:
                if (each.run_id, each.epoch) in lost:
                    each.on_lost()


def retry_after_s(failures: int) -> float:
    """How long to leave a run alone here that could not be driven on, so that a broken one does not keep us busy."""
    return min(60.0, math.ldexp(0.5, min(failures, 10)))
