"""Sealing: the journals of runs that ended a while ago move out of the store's memory, where most are read never again.

Whoever reads one does not notice (`store.segments`). A run that had not ended when its turn came, or could not be read,
is met again when the looks have gone through all runs and begin anew.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import anyio
import structlog

from service.ids import RunId, born_at
from service.journal.redis_journal import Journal
from service.store.connection import Clock
from service.store.errors import StoreFailed
from service.store.rounds import tried_again
from service.store.sole_lease import SoleLease

LOOK_EVERY_S = 60.0
SEALED_AFTER_S = 24 * 3600.0
"""After its submission: by then a run has ended, and who was waiting for it has read it."""
BEGIN_ANEW_S = 3600.0
"""After all runs that are old enough were looked at."""
LOOKED_AT_ONCE = 200
"""Root runs of one tenant in one look."""
LEASE = "rlm:journals_sealer"
LEASE_S = 3 * LOOK_EVERY_S

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingLook:
    """What one look at a tenant's runs came to."""

    sealed: int
    """Runs, child runs included."""
    after: RunId | None
    """Where the next one goes on; None when this one has seen the last run that is old enough."""


async def seal_runs(journal: Journal, *, before: float, after: RunId | None = None) -> SealingLook:
    """Seal what was submitted before then among the next `LOOKED_AT_ONCE` runs behind `after`, with their child runs.
    One that cannot be read is passed over.

    Raises:
        StoreFailed: some may not be sealed; ask again.
    """
    sealed = 0
    found = await journal.oldest_runs(LOOKED_AT_ONCE, after)
    old = [run_id for run_id in found if (born := born_at(run_id)) is not None and born < before]
    for run_id in old:
        try:
            family = [run_id]
            for member in family:
                family += await journal.children_of(member)
                sealed += await journal.seal_ended(member)
        except StoreFailed:
            raise
        except Exception:
            # One of the few boundaries: a run that cannot be read stays, and those behind it have their turn.
            log.exception("journal_not_sealed", tenant_id=journal.tenant, run_id=run_id)
    return SealingLook(sealed=sealed, after=old[-1] if len(old) == LOOKED_AT_ONCE else None)


async def keep_sealing(
    tenants: Callable[[], Awaitable[Iterable[Journal]]],
    lease: SoleLease,
    *,
    now: Clock,
    every_s: float = LOOK_EVERY_S,
    begin_anew_s: float = BEGIN_ANEW_S,
) -> None:
    """Until cancelled: a bounded look at each tenant's runs, again and again, by whoever of all replicas has the lease.
    What cannot be read of one tenant keeps nobody else's runs from it."""
    places: dict[str, RunId] = {}
    not_before: dict[str, float] = {}
    while True:
        with tried_again("journals_not_sealed"):
            is_ours = await lease.hold(for_s=LEASE_S)
            for journal in await tenants() if is_ours else ():
                tenant = journal.tenant
                if anyio.current_time() < not_before.get(tenant, 0.0):
                    continue
                with tried_again("journals_not_sealed", tenant_id=tenant):
                    look = await seal_runs(journal, before=await now() - SEALED_AFTER_S, after=places.pop(tenant, None))
                    if look.after is not None:
                        places[tenant] = look.after
                    else:
                        not_before[tenant] = anyio.current_time() + begin_anew_s
                    if look.sealed:
                        log.info("journals_sealed", tenant_id=tenant, runs=look.sealed)
        await anyio.sleep(every_s)
