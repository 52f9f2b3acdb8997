"""Adopting: looks for runs that nobody drives, and has them driven here.

Every replica that serves does so, all the time: not only at its start, because a run may lose its driver at any moment.
A claim is atomic, so that replicas which see the same run at the same time do not get it twice. None takes more than it
has room for; what it leaves is for others, or for later.
"""

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import anyio
import structlog

from service.ids import RunId
from service.runs.recovery.leases import retry_after_s
from service.store.hints import Hint
from service.store.rounds import tried_again

LOOK_EVERY_S = 1.0
LOOKED_AT_ONCE = 100
"""Abandoned runs of one tenant that one look takes into account."""
FORGET_AFTER_S = 3600.0
"""A run that could not be driven on here is a new one after that."""

log = structlog.get_logger(__name__)


class Adopts(Protocol):
    """One tenant's runs, as far as adopting goes: `runs.Runs`."""

    async def abandoned(self, limit: int) -> list[RunId]:
        """Root runs that nobody keeps, longest abandoned first."""
        ...

    def is_live(self, run_id: RunId) -> bool:
        """Whether it is being driven here, or still being let go."""
        ...

    def start(self, run_id: RunId) -> None:
        """Claim it and drive it on, in the background; nothing happens when somebody else is faster."""
        ...


class Attempts:
    """How often each run was begun here of late, and when it may be begun again. Pure but for its memory."""

    def __init__(self) -> None:
        self._begun: dict[RunId, tuple[int, float]] = {}

    def is_due(self, run_id: RunId, now: float) -> bool:
        """Whether it may be begun: at once for the first time, then after longer and longer pauses."""
        count, last = self._begun.get(run_id, (0, 0.0))
        return not count or now >= last + retry_after_s(count)

    def note(self, run_id: RunId, now: float) -> None:
        """It is begun now."""
        self._begun = {each: (n, at) for each, (n, at) in self._begun.items() if now < at + FORGET_AFTER_S}
        count, _ = self._begun.get(run_id, (0, 0.0))
        self._begun[run_id] = (count + 1, now)


def next_to_adopt(found: list[list[RunId]], room: int) -> list[tuple[int, RunId]]:
    """Which runs to begin, as (index of the tenant, run): one of each tenant in turn, while there is room. Pure."""
    turns: list[tuple[int, RunId]] = []
    for depth in range(max(map(len, found), default=0)):
        for index, runs in enumerate(found):
            if depth < len(runs) and len(turns) < room:
                turns.append((index, runs[depth]))
    return turns


async def keep_adopting(
    tenants: Callable[[], Awaitable[Iterable[Adopts]]],
    room: Callable[[], int],
    let_go: Hint,
    *,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Until cancelled. `tenants` are those that have runs which nobody drives; `room` says how many more runs may be
    driven here. `let_go` rings when some replica gives runs up: they are looked for at once.

    A store that fails is asked again: that runs go on once it is back is what this loop is for.
    """
    attempts = Attempts()
    with let_go:
        while True:
            with tried_again("abandoned_runs_not_looked_for"):
                await _look(list(await tenants()), room, attempts)
            await let_go.wait(at_most_s=every_s)


async def _look(tenants: list[Adopts], room: Callable[[], int], attempts: Attempts) -> None:
    if room() <= 0:
        return
    now = anyio.current_time()
    random.shuffle(tenants)  # whoever comes first has the room, and no tenant is always first
    found = [
        [
            run_id
            for run_id in await tenant.abandoned(LOOKED_AT_ONCE)
            if not tenant.is_live(run_id) and attempts.is_due(run_id, now)
        ]
        for tenant in tenants
    ]
    for index, run_id in next_to_adopt(found, room()):
        attempts.note(run_id, now)
        log.info("run_adopted", run_id=run_id)
        tenants[index].start(run_id)
