"""Sealing: the journals of runs that ended a while ago move out of the store's memory, where most are read never again.

Whoever reads one does not notice (`store.segments`). A run that had not ended when its turn came stays as it is until
the next start of a replica.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import anyio
import structlog

from service.ids import RunId, born_at
from service.journal.redis_journal import Journal
from service.store.errors import StoreFailed

LOOK_EVERY_S = 60.0
SEALED_AFTER_S = 24 * 3600.0
"""After its submission: by then a run has ended, and who was waiting for it has read it."""
LOOKED_AT_ONCE = 200
"""Root runs of one tenant in one look."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingLook:
    """What one look at a tenant's runs came to."""

    sealed: int
    """Runs, child runs included."""
    after: RunId | None
    """Where the next one goes on."""


async def seal_runs(journal: Journal, *, before: float, after: RunId | None = None) -> SealingLook:
    """Seal what was submitted before then among the next `LOOKED_AT_ONCE` runs behind `after`, with their child runs.

    Raises:
        StoreFailed: some may not be sealed; ask again.
    """
    sealed = 0
    for run_id in await journal.oldest_runs(LOOKED_AT_ONCE, after):
        born = born_at(run_id)
        if born is None or born >= before:
            break
        family = [run_id]
        for member in family:
            family += await journal.children_of(member)
            sealed += await journal.seal_ended(member)
        after = run_id
    return SealingLook(sealed=sealed, after=after)


async def keep_sealing(
    tenants: Callable[[], Awaitable[Iterable[Journal]]],
    *,
    now: Callable[[], float],
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Until cancelled: a bounded look at each tenant's runs, again and again. A store that fails is asked again, and
    what cannot be read of one tenant keeps nobody else's runs from it."""
    places: dict[str, RunId | None] = {}
    while True:
        try:
            journals = list(await tenants())
        except StoreFailed as exc:
            log.warning("journals_not_sealed", error=str(exc))
            journals = []
        for journal in journals:
            try:
                look = await seal_runs(journal, before=now() - SEALED_AFTER_S, after=places.get(journal.tenant))
            except StoreFailed as exc:
                log.warning("journals_not_sealed", tenant_id=journal.tenant, error=str(exc))
                continue
            except Exception:
                # One of the few boundaries: what one tenant's records do must not concern the others.
                log.exception("journals_not_sealed", tenant_id=journal.tenant)
                continue
            places[journal.tenant] = look.after
            if look.sealed:
                log.info("journals_sealed", tenant_id=journal.tenant, runs=look.sealed)
        await anyio.sleep(every_s)
