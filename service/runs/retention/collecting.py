"""Collecting: blobs that nothing refers to any more are found, and removed when a second look finds them so again.

A look has a bounded number of suspects, payloads that nobody has put or touched for `UNTOUCHED_FOR_S`: those that the
look before found unreferenced, and further ones from where it stopped. What is referenced is struck out
(`store.blob_references`). Of the rest, what was a suspect before is removed unless somebody touched it meanwhile
(`store.blob_collection`); what is one for the first time waits for the next look.

A store that has lost its data refers to nothing. So blobs and store are paired (`store.pairing`), and where they are
not each other's nothing is removed.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
import structlog

from service.contexts.images import Images, is_memory_of_images
from service.ids import TenantId
from service.store.blob_collection import SHARDS, Collected
from service.store.blob_references import References, Suspects
from service.store.blobs import Blobs
from service.store.connection import Clock, Store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.store.pairing import Pairing, Standing
from service.store.rounds import tried_again
from service.store.sole_lease import SoleLease

UNTOUCHED_FOR_S = 3600.0
"""More than anybody takes from putting a payload to referring to it."""
MOST_SUSPECTS = 200_000
LEASE = "rlm:blobs_collector"
LEASE_S = 60.0

log = structlog.get_logger(__name__)

BlobsOfTenants = Callable[[], Awaitable[Mapping[TenantId, Blobs]]]


class StoreForgot(StoreFailed):
    """The store does not know what it should refer to, so nothing can be said to be unreferenced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look came to, in payloads."""

    suspects: int
    """Looked for in the store."""
    young: int
    """Put or touched too lately to be looked for, where this look came by."""
    referenced: int
    waiting: int
    """For which no reference was found for the first time."""
    removed: int
    freed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suspected:
    """What a look leaves to the next."""

    untouched_since: float
    digests: Mapping[TenantId, frozenset[bytes]]


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where suspects are taken from next."""

    tenant: str = ""
    shard: int = 0


class BlobCollector:
    """Looks after the blobs of all tenants, one look at a time."""

    def __init__(
        self,
        store: Store,
        pairing: Pairing,
        tenants: BlobsOfTenants,
        now: Clock,
        *,
        most_suspects: int = MOST_SUSPECTS,
    ) -> None:
        """`now` is the clock by which the files of blobs get their times (`store.file_clock`). Suspects beyond
        `most_suspects` wait for the next look."""
        self._most_suspects = most_suspects
        self._store = store
        self._pairing = pairing
        self._tenants = tenants
        self._now = now
        self._references = References(store, is_memory_of_images)
        self._suspected = _Suspected(untouched_since=0.0, digests={})
        self._place = _Place()

    def __repr__(self) -> str:
        waiting = sum(map(len, self._suspected.digests.values()))
        return f"<BlobCollector waiting={waiting} next={self._place.tenant or 'the first'}/{self._place.shard}>"

    def begin_anew(self) -> None:
        """Forget what the last look found: it lies too far back."""
        self._suspected = _Suspected(untouched_since=0.0, digests={})

    async def look(self, *, force: bool = False) -> Look:
        """One look. With `force` it believes a store that seems to have lost its data, and pairs with it.

        Raises:
            StoreForgot: nothing was removed.
            StoreFailed: some may have been removed; what was is not referred to.
        """
        standing = Standing.NEW if force else await self._pairing.standing()
        if standing is Standing.PARTED:
            raise StoreForgot(
                "the blobs belong to another store than this one, or it has lost its data, so nothing was removed: "
                "restore it, or say `blobs collect --force` if what it does not refer to is not needed"
            )
        untouched_since = await self._now() - UNTOUCHED_FOR_S
        tenants = await self._tenants()
        before = self._suspected
        suspects, young = await self._suspects(tenants, untouched_since)
        looked_for = sum(len(each.digests) for each in suspects.values())
        await self._references.strike_out(suspects)
        left = {tenant: frozenset(each.digests) for tenant, each in suspects.items()}
        unreferenced = sum(map(len, left.values()))
        if standing is Standing.NEW:
            if force:
                await self._pairing.pair_anew()
            elif unreferenced < looked_for:
                await self._pairing.pair()
            elif looked_for:
                raise StoreForgot(
                    f"the store refers to none of {looked_for} blobs, so nothing was removed: if it has not lost its "
                    "data, say `blobs collect --force`"
                )
        removed, waiting = Collected(0, 0), {}
        for tenant, digests in left.items():
            again = digests & before.digests.get(tenant, frozenset())
            waiting[tenant] = digests - again
            found = await self._remove(tenant, tenants[tenant], again, untouched_since=before.untouched_since)
            removed = Collected(removed.blobs + found.blobs, removed.size_bytes + found.size_bytes)
        self._suspected = _Suspected(untouched_since=untouched_since, digests=waiting)
        return Look(
            suspects=looked_for,
            young=young,
            referenced=looked_for - unreferenced,
            waiting=sum(map(len, waiting.values())),
            removed=removed.blobs,
            freed_bytes=removed.size_bytes,
        )

    async def _remove(
        self, tenant: TenantId, blobs: Blobs, digests: frozenset[bytes], *, untouched_since: float
    ) -> Collected:
        if not digests:
            return Collected(0, 0)
        names = [digest.hex() for digest in digests]
        found = await blobs.remove(names, untouched_since=untouched_since)
        await Images(self._store, blobs, Keys(tenant)).forget(names)
        return found

    async def _suspects(
        self, tenants: Mapping[TenantId, Blobs], untouched_since: float
    ) -> tuple[dict[TenantId, Suspects], int]:
        """Those of the last look, and as many more as there may be, from where it stopped; and how many were passed by
        because they are young."""
        found = {
            tenant: Suspects(blobs=blobs, digests=set(self._suspected.digests.get(tenant, ())))
            for tenant, blobs in tenants.items()
        }
        count, young = sum(len(each.digests) for each in found.values()), 0
        places = [_Place(tenant, shard) for tenant in sorted(tenants) for shard in range(len(SHARDS))]
        ahead = [place for place in places if place >= self._place]
        for place in ahead + [place for place in places if place < self._place]:
            if count >= self._most_suspects:
                self._place = place
                break
            of_tenant = found[TenantId(place.tenant)]
            count -= len(of_tenant.digests)
            shard = await of_tenant.blobs.untouched(SHARDS[place.shard], since=untouched_since)
            of_tenant.digests.update(map(bytes.fromhex, shard.digests))
            young += shard.young
            count += len(of_tenant.digests)
        return found, young


async def keep_collecting(
    collector: BlobCollector,
    lease: SoleLease,
    *,
    every_s: float,
    told: Callable[[Look, float], None],
    lease_s: float = LEASE_S,
) -> None:
    """Until cancelled: whoever of all replicas has the lease, which lasts `lease_s` from when it was taken or renewed
    last, looks, and again `every_s` later. `told` is given what each look came to and how many seconds it took. A store
    that fails is asked again."""
    next_at = anyio.current_time()
    while True:
        with tried_again("blobs_not_collected"):
            if not await lease.hold(for_s=lease_s):
                collector.begin_anew()
            elif anyio.current_time() >= next_at:
                next_at = anyio.current_time() + every_s
                try:
                    await _look_holding(collector, lease, told, lease_s)
                except StoreForgot as exc:
                    log.error("blobs_not_collected", error=str(exc))  # until an operator does something about it
        await anyio.sleep(min(lease_s / 3, every_s))


async def _look_holding(
    collector: BlobCollector, lease: SoleLease, told: Callable[[Look, float], None], lease_s: float
) -> None:
    """A look that ends early when the lease is lost."""
    began_at = anyio.current_time()
    looks: list[Look] = []
    failures: list[StoreFailed] = []
    async with anyio.create_task_group() as group:

        async def look() -> None:
            try:
                looks.append(await collector.look())
            except StoreFailed as exc:
                failures.append(exc)
            group.cancel_scope.cancel()

        async def hold() -> None:
            while True:
                await anyio.sleep(lease_s / 3)
                try:
                    is_held = await lease.hold(for_s=lease_s)
                except StoreFailed:
                    is_held = False
                if not is_held:
                    group.cancel_scope.cancel()

        group.start_soon(look)
        group.start_soon(hold)
    if failures:
        raise failures[0]
    for found in looks:
        told(found, anyio.current_time() - began_at)
        if found.removed:
            log.info("blobs_collected", blobs=found.removed, freed_bytes=found.freed_bytes)
