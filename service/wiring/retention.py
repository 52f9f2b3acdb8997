"""Retention: what a replica that serves clears away, and how the operator has blobs collected."""

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import anyio.abc

from service.contexts.upload_sweeping import keep_sweeping
from service.contexts.uploads import Uploads
from service.ids import TenantId
from service.journal.redis_journal import Journal
from service.metrics.replica import ReplicaMetrics
from service.runs.erasure.erasure import ERASURES, Erasure
from service.runs.erasure.finishing import LEASE as ERASURES_LEASE
from service.runs.erasure.finishing import keep_finishing
from service.runs.holdings.expiring import keep_expiring
from service.runs.retention.collecting import LEASE, BlobCollector, Look, keep_collecting
from service.runs.retention.forgetting import keep_forgetting
from service.runs.retention.sealing import LEASE as SEALER_LEASE
from service.runs.retention.sealing import keep_sealing
from service.runs.rooms import RunsRooms
from service.runs.tenancy import Tenancy
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.connection import Store
from service.store.file_clock import file_system_now
from service.store.pairing import Pairing
from service.store.sole_lease import SoleLease
from service.tenants.registry import Registry
from service.wiring.blobs import blobs_directory
from service.wiring.tenant_rooms import SharedRooms


def start_retention(
    tasks: anyio.abc.TaskGroup,
    settings: Settings,
    shared: SharedRooms,
    tenancy: Tenancy,
    tenants: Callable[[], Awaitable[Iterable[RunsRooms]]],
) -> None:
    """Uploads and contexts that were given up, journals that few read any more, runs whose time is over (of `tenants`
    both), blobs that nothing refers to, tenants that are to be erased."""
    tasks.start_soon(keep_sweeping, partial(_uploads_of_all, shared.registry, tenancy))

    async def journals() -> list[Journal]:
        return [rooms.journal for rooms in await tenants()]

    sealer = SoleLease(shared.store, SEALER_LEASE, shared.leases.replica)
    tasks.start_soon(partial(keep_sealing, journals, sealer, now=shared.store.now))
    if settings.runs_kept_s is not None:
        tasks.start_soon(partial(keep_forgetting, tenants, kept_s=settings.runs_kept_s, now=shared.store.now))
    erasure = Erasure(shared.store, shared.registry, shared.blobs_of, time.time)
    lease = SoleLease(shared.store, ERASURES_LEASE, shared.leases.replica)
    tasks.start_soon(keep_finishing, erasure, lease, shared.store.listen(ERASURES))
    all_rooms = partial(_rooms_of_all, shared.registry, tenancy)
    tasks.start_soon(partial(keep_expiring, all_rooms, kept_s=settings.chat_contexts_kept_s, now=shared.store.now))
    if settings.collect_blobs_s is not None:
        collector = open_collector(
            settings, shared.store, shared.registry, lambda tenant: tenancy.runs_of(tenant).rooms.blobs
        )
        lease = SoleLease(shared.store, LEASE, shared.leases.replica)
        told = partial(_count, shared.metrics)
        tasks.start_soon(partial(keep_collecting, collector, lease, every_s=settings.collect_blobs_s, told=told))


def open_collector(
    settings: Settings, store: Store, registry: Registry, blobs_of: Callable[[TenantId], Blobs]
) -> BlobCollector:
    """Of the blobs of all tenants but those that are being erased."""

    async def tenants() -> dict[TenantId, Blobs]:
        return {tenant: blobs_of(tenant) for tenant in await registry.tenants.that_stay()}

    directory = blobs_directory(settings)
    return BlobCollector(store, Pairing(store, directory), tenants, partial(file_system_now, directory))


def _count(metrics: ReplicaMetrics, look: Look, seconds: float) -> None:
    metrics.count_look(
        referenced=look.referenced,
        waiting=look.waiting,
        removed=look.removed,
        freed_bytes=look.freed_bytes,
        seconds=seconds,
    )


async def _rooms_of_all(registry: Registry, tenancy: Tenancy) -> list[RunsRooms]:
    return [tenancy.runs_of(tenant).rooms for tenant in await registry.tenants.that_stay()]


async def _uploads_of_all(registry: Registry, tenancy: Tenancy) -> list[Uploads]:
    return [tenancy.runs_of(tenant).rooms.uploads for tenant in await registry.tenants.that_stay()]
