"""The use case: erase a tenant. Every step may be repeated, so what was killed half-way is finished by asking again.

    1  the tenant's record says that it is being erased: no key works, none can be made, no model call is made
    2  its API keys go
    3  its unfinished runs are cancelled, and those that somebody drives are given `STOP_WITHIN_S` to end
    4  what it has spent is added up by month, and kept with its id: the operator's books must go on adding up
    5  its keys in the store go, for good: what still works for it can write nothing more
    6  its blobs go
    7  its record keeps only that it is being erased: who asks again must find it, and nobody its name or limits
    8  the store's log is written anew, without what was deleted (`store.log_rewriting`)
    9  its record goes

What stays: the figures of step 4, and in the operator's chain of the audit log its id with what the operator did to it.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import structlog
from pydantic import TypeAdapter

from service.errors import NotFound
from service.ids import RunId, TenantId
from service.journal.redis_journal import Journal
from service.journal.tenants_at_work import forget_tenant
from service.ledger.redis_ledger import Ledger
from service.store.blobs import Blobs
from service.store.connection import Store
from service.store.erasing import erase_keys
from service.store.log_rewriting import rewrite_log
from service.tenants.records import KEYS
from service.tenants.registry import Registry
from service.tenants.values import Author

STOP_WITHIN_S = 60.0
LOOK_AGAIN_S = 0.5
RUNS_AT_ONCE = 500
ERASURES = "rlm:erasures"
"""Topic of hints that a tenant is to be erased."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedFigures:
    """All that is kept of an erased tenant's use."""

    erased_at: float
    runs: int
    calls: int
    nano_usd_by_month: dict[str, int]
    """`2026-11` → what was spent in it (UTC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureStanding:
    """How far the erasure of a tenant is."""

    tenant_id: TenantId
    began_at: float | None
    """None once it has ended: then nothing but the figures is kept."""
    figures: ErasedFigures | None
    """Once they are added up."""

    @property
    def has_ended(self) -> bool:
        return self.began_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erasure that was carried out came to."""

    figures: ErasedFigures
    is_off_the_log: bool
    """Whether the store's log has nothing of it any more; where not, the service's log says why."""


_FOR_EVER = 9e12
"""Later than any hold expires."""
_FIGURES = TypeAdapter(ErasedFigures)
_KEPT = KEYS("erased")


class Erasure:
    """Erases one tenant after another; needs nothing but the store and the blobs."""

    def __init__(
        self, store: Store, registry: Registry, blobs_of: Callable[[TenantId], Blobs], now: Callable[[], float]
    ) -> None:
        self._store = store
        self._registry = registry
        self._blobs_of = blobs_of
        self._now = now

    async def erase(self, tenant_id: TenantId, *, by: Author, stop_within_s: float = STOP_WITHIN_S) -> Erased:
        """Erase everything of a tenant. When it is broken off, call it again.

        Raises:
            NotFound: there is no such tenant (any more).
            BadRequest: it is the tenant `default`.
            StoreFailed: the store or the disk failed; nothing is half-erased that a second call would not finish.
        """
        await self._registry.tenants.begin_erasure(tenant_id, by=by)
        return await self.finish(tenant_id, by=by, stop_within_s=stop_within_s)

    async def begin(self, tenant_id: TenantId, *, by: Author) -> ErasureStanding:
        """Let it be erased by whoever looks for such tenants (`finishing`). Idempotent, when it is erased too.

        Raises:
            NotFound: there is no such tenant, and never was.
            BadRequest: it is the tenant `default`.
        """
        try:
            await self._registry.tenants.begin_erasure(tenant_id, by=by)
        except NotFound:
            return await self.standing(tenant_id)
        await self._store.hint(ERASURES)
        return await self.standing(tenant_id)

    async def standing(self, tenant_id: TenantId) -> ErasureStanding:
        """How far it is. Raises `NotFound` for a tenant of which no erasure began."""
        kept = await self._store.read("HGET", _KEPT, tenant_id)
        figures = _FIGURES.validate_json(kept) if isinstance(kept, bytes) else None
        try:
            began_at = (await self._registry.tenants.get(tenant_id)).erasing_since
        except NotFound:
            if figures is None:
                raise
            return ErasureStanding(tenant_id=tenant_id, began_at=None, figures=figures)
        if began_at is None:
            raise NotFound(f"no erasure of {tenant_id} has begun")
        return ErasureStanding(tenant_id=tenant_id, began_at=began_at, figures=figures)

    async def unfinished(self) -> list[TenantId]:
        """Tenants whose erasure has begun and not ended."""
        return await self._registry.tenants.being_erased()

    async def finish(self, tenant_id: TenantId, *, by: Author, stop_within_s: float = STOP_WITHIN_S) -> Erased:
        """Do the rest of an erasure that has begun. Raises as `erase`."""
        await self._registry.api_keys.forget_all(tenant_id)
        await self._stop_runs(tenant_id, stop_within_s)
        figures = await self._keep_figures(tenant_id)
        await erase_keys(self._store, tenant_id)
        await self._blobs_of(tenant_id).erase()
        await forget_tenant(self._store, tenant_id)
        with suppress(NotFound):  # Somebody else has just ended the same erasure.
            await self._registry.tenants.strip(tenant_id)
        is_off_the_log = await rewrite_log(self._store)
        await self._registry.tenants.forget(tenant_id, by=by)
        _log.info("tenant_erased", tenant_id=tenant_id, runs=figures.runs)
        return Erased(figures=figures, is_off_the_log=is_off_the_log)

    async def figures(self) -> dict[TenantId, ErasedFigures]:
        """What is kept of the tenants that were erased."""
        flat = await self._store.read("HGETALL", _KEPT)
        assert isinstance(flat, list)
        parts = [each for each in flat if isinstance(each, bytes)]
        return {
            TenantId(tenant.decode()): _FIGURES.validate_json(figures)
            for tenant, figures in zip(parts[::2], parts[1::2], strict=True)
        }

    async def _stop_runs(self, tenant_id: TenantId, within_s: float) -> None:
        """A run whose driver is gone has a lapsed lease and is not waited for."""
        journal = Journal(self._store, self._blobs_of(tenant_id), tenant_id)
        told: set[RunId] = set()
        with anyio.move_on_after(within_s):
            while True:
                async for unfinished in journal.all_unfinished():
                    for run_id in unfinished:
                        if run_id not in told:
                            await journal.request_cancel(run_id)
                            told.add(run_id)
                if not await journal.kept():
                    return
                await anyio.sleep(LOOK_AGAIN_S)
        _log.warning("runs_outlive_their_tenant", tenant_id=tenant_id)

    async def _keep_figures(self, tenant_id: TenantId) -> ErasedFigures:
        """Added up while everything is there; a second call finds the figures of the first."""
        kept = await self._store.read("HGET", _KEPT, tenant_id)
        if not isinstance(kept, bytes):
            figures = await self._add_up(tenant_id)
            await self._store.write("HSETNX", _KEPT, tenant_id, _FIGURES.dump_json(figures))
            kept = await self._store.read("HGET", _KEPT, tenant_id)
            assert isinstance(kept, bytes), "it was written just now"
        return _FIGURES.validate_json(kept)

    async def _add_up(self, tenant_id: TenantId) -> ErasedFigures:
        """Of what the ledger has booked, for runs that were forgotten too. Calls in flight, or lost there, are booked
        first, at all that they can have cost."""
        journal = Journal(self._store, self._blobs_of(tenant_id), tenant_id)
        ledger = Ledger(self._store, tenant_id, self._now)
        await ledger.settle_expired(_FOR_EVER, unfinished=_all_have_ended)
        spent: Counter[str] = Counter()
        runs: set[RunId] = set()
        calls = 0
        async with aclosing(ledger.booked_runs()) as booked:
            async for page in booked:
                for run_id in page:
                    if run_id in runs:
                        continue
                    runs.add(run_id)
                    entries = await ledger.entries(run_id)
                    calls += len(entries)
                    for entry in entries:
                        spent[datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m")] += entry.nano_usd
        before: RunId | None = None
        while roots := await journal.list_runs(RUNS_AT_ONCE, before):
            before = roots[-1]
            for root in roots:
                family = [root]
                for run_id in family:
                    family += await journal.children_of(run_id)
                runs.update(family)
        return ErasedFigures(erased_at=self._now(), runs=len(runs), calls=calls, nano_usd_by_month=dict(spent))


async def _all_have_ended(run_ids: AbstractSet[RunId]) -> AbstractSet[RunId]:
    """Nobody takes over a run of a tenant that is being erased."""
    return frozenset()
