"""The whole service, opened for the time of a block. One exit stack owns every lifetime: what is opened here is closed
here, in reverse order.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.abc

from service.configuration.file import Configuration, read_configuration
from service.contexts.presence import any_is_kept
from service.contexts.redis_contexts import Contexts
from service.errors import sole_failure
from service.gateway.app import gateway_app
from service.gateway.listener import serve_gateway
from service.ids import EMBEDDED_TENANT, new_id
from service.journal.redis_journal import RUNS_LET_GO
from service.journal.tenants_at_work import TenantsAtWork, tenants_with_runs
from service.metrics.replica import ReplicaMetrics
from service.models.catalog import Catalog
from service.runs.answering.profiles import Profiles
from service.runs.calls.expiry import keep_settling
from service.runs.calls.health import ProviderHealth
from service.runs.dispatch.counts import keep_renewing
from service.runs.dispatch.dispatch import Lines
from service.runs.driving.tenure import HAND_OVER_S
from service.runs.erasure.erasure import Erasure
from service.runs.host_calls.grants import Grants
from service.runs.recovery.adopting import keep_adopting
from service.runs.recovery.leases import Leases
from service.runs.rooms import RunsRooms
from service.runs.runs import STOP_WITHIN_S, Runs
from service.runs.sessions.idling import IdlePatience
from service.runs.tenancy import Tenancy
from service.sandboxes.pool import Pool, open_pool
from service.sandboxes.port import Provider, Template
from service.sandboxes.reaper import keep_reaping
from service.sandboxes.slots import Slots
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.connection import Store, open_store
from service.store.disk_room import DiskRoom
from service.store.exchanges import PutsBefore, nothing_before
from service.store.pairing import Pairing
from service.tenants.registry import Registry
from service.webhooks.delivering import Delivering
from service.webhooks.rooms import WebhookRooms
from service.webhooks.targets import TargetRules
from service.wiring.blobs import blobs_directory, open_blobs
from service.wiring.data_directory import make_data_directory, sessions_directory
from service.wiring.keys import open_registry_of
from service.wiring.models import open_catalog
from service.wiring.retention import start_retention
from service.wiring.sandboxes import open_provider
from service.wiring.tenant_rooms import SharedRooms


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything a face of the service works with. The command line acts as the tenant `default`, whose `runs`,
    `blobs` and `contexts` these are; the web reaches every tenant's through `tenancy`."""

    settings: Settings
    store: Store
    registry: Registry
    blobs: Blobs
    disk: DiskRoom
    contexts: Contexts
    catalog: Catalog
    provider: Provider
    pool: Pool
    runs: Runs
    tenancy: Tenancy
    webhooks: WebhookRooms
    metrics: ReplicaMetrics
    let_go: Callable[[], Coroutine[Any, Any, None]]
    """Adopt no run any more, and hand over (or end) those that are driven here; happens on leaving at the latest."""
    leave_at_once: Callable[[], None]
    """Have leaving wait for no run to end in good order, for a person who asked twice: runs are broken off."""
    profiles: Profiles
    erasure: Erasure


@asynccontextmanager
async def open_service(
    settings: Settings, *, serves: bool = False, exchanges_over: PutsBefore = nothing_before
) -> AsyncIterator[Service]:
    """The whole service on this machine, for the time of the block.

    A replica that `serves` adopts runs that nobody drives, and on leaving hands its own over; otherwise they are
    cancelled and settle. Requests to the store go through what `exchanges_over` puts before its exchanges.

    Raises:
        BadRequest: the data directory cannot be used or, to serve, is not the one that the store goes with, or the
            configuration file is wrong.
        StoreFailed: no store can be reached or started or, to serve, it has lost its data.
    """
    try:
        async with _open_rooms(settings, serves=serves, exchanges_over=exchanges_over) as service:
            yield service
    except BaseExceptionGroup as group:
        # Every task group on the way out wraps; callers catch what was raised, not how deep.
        raise sole_failure(group) from group


@asynccontextmanager
async def _open_rooms(settings: Settings, *, serves: bool, exchanges_over: PutsBefore) -> AsyncIterator[Service]:
    make_data_directory(settings)
    async with AsyncExitStack() as stack:
        configuration = read_configuration(settings.config_file)
        shared = await _open_shared(stack, settings, configuration, hands_over=serves, exchanges_over=exchanges_over)
        if serves:
            pairing = Pairing(shared.store, blobs_directory(settings))
            await pairing.join(has_payloads=partial(any_is_kept, shared.store))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tenancy = Tenancy(shared.of, tasks)
        _start_upkeep(tasks, settings, shared, tenancy)
        _watch(shared.metrics, shared.pool, tenancy)
        rules = TargetRules(settings.webhook_networks)
        webhooks = WebhookRooms(store=shared.store, registry=shared.registry, rules=rules, now=time.time)
        adopting, waiting = anyio.CancelScope(), anyio.CancelScope()

        async def let_go() -> None:
            adopting.cancel()
            shared.store.end_after(max(HAND_OVER_S, settings.drain_s) if serves else STOP_WITHIN_S)
            await tenancy.stop()

        if serves:
            _start_serving(tasks, settings, shared, tenancy, adopting)
            tasks.start_soon(Delivering(webhooks, tenancy).keep_delivering)
        runs = tenancy.runs_of(EMBEDDED_TENANT)
        try:
            yield Service(
                settings=settings,
                store=shared.store,
                registry=shared.registry,
                blobs=runs.rooms.blobs,
                disk=shared.disk,
                contexts=runs.rooms.contexts,
                catalog=shared.catalog,
                provider=shared.provider,
                pool=shared.pool,
                runs=runs,
                tenancy=tenancy,
                webhooks=webhooks,
                metrics=shared.metrics,
                erasure=Erasure(shared.store, shared.registry, shared.blobs_of, time.time),
                let_go=let_go,
                leave_at_once=waiting.cancel,
                profiles=Profiles(
                    named=configuration.profiles,
                    root_model=settings.root_model,
                    sub_model=settings.sub_model,
                    direct_models=tuple(configuration.models),
                ),
            )
        finally:
            with anyio.CancelScope(shield=True), waiting:
                await let_go()
            tasks.cancel_scope.cancel()


async def _open_shared(
    stack: AsyncExitStack,
    settings: Settings,
    configuration: Configuration,
    *,
    hands_over: bool,
    exchanges_over: PutsBefore,
) -> SharedRooms:
    """Everything that is one for each replica, from the store up to the sandboxes. Closed by the stack."""
    store = await stack.enter_async_context(
        open_store(data_directory=settings.data_directory, redis_url=settings.redis_url, over=exchanges_over)
    )
    registry = await open_registry_of(settings, store, lambda: configuration.models)
    catalog = await stack.enter_async_context(open_catalog(settings, configuration))
    grants = Grants(time.time)
    gateway_socket = await stack.enter_async_context(serve_gateway(gateway_app(grants), settings.data_directory))
    provider = await stack.enter_async_context(open_provider(settings))
    template = Template(memory_bytes=settings.sandbox_memory_bytes)
    pool = await stack.enter_async_context(
        open_pool(
            provider,
            sessions=sessions_directory(settings),
            gateway_socket=gateway_socket,
            slots=settings.sandbox_slots,
            warm=settings.warm_sandboxes,
            template=template,
        )
    )
    return SharedRooms(
        store=store,
        registry=registry,
        blobs_of=partial(open_blobs, settings),
        disk=DiskRoom(blobs_directory(settings), sessions_directory(settings)),
        catalog=catalog,
        packs=configuration.prompt_packs,
        provider=provider,
        pool=pool,
        template=template,
        slots=Slots(settings.sandbox_slots),
        grants=grants,
        health=ProviderHealth(),
        lines=Lines(settings.model_concurrency),
        leases=Leases(new_id("rep"), for_s=settings.lease_s, hands_over=hands_over),
        on_divergence=settings.on_divergence,
        metrics=ReplicaMetrics(),
    )


def _start_upkeep(tasks: anyio.abc.TaskGroup, settings: Settings, shared: SharedRooms, tenancy: Tenancy) -> None:
    """What every process with the service does besides, whether it serves or answers one command."""
    patience = IdlePatience(pause_s=settings.session_pause_s, end_s=settings.session_idle_s)
    tasks.start_soon(shared.leases.keep_renewing)
    tasks.start_soon(keep_reaping, shared.provider, sessions_directory(settings))
    tasks.start_soon(tenancy.kept.keep_resting, patience)
    tasks.start_soon(
        keep_settling,
        lambda: [(each.rooms.ledger, each.rooms.journal) for each in tenancy.opened()],
        shared.store.now,
    )
    tasks.start_soon(keep_renewing, lambda: [each.rooms.dispatch.counts for each in tenancy.opened()])


def _start_serving(
    tasks: anyio.abc.TaskGroup,
    settings: Settings,
    shared: SharedRooms,
    tenancy: Tenancy,
    adopting: anyio.CancelScope,
) -> None:
    """What only a replica does: take abandoned runs over, as long as `adopting` lasts, and clear up after tenants."""

    at_work = TenantsAtWork(shared.store, shared.store.now)

    async def abandoned() -> list[Runs]:
        await shared.disk.require()  # without room they could not go on here
        return [tenancy.runs_of(tenant) for tenant in await at_work.with_abandoned_runs()]

    def room() -> int:
        return settings.sandbox_slots - sum(each.live for each in tenancy.opened())

    async def adopt() -> None:
        with adopting:
            await keep_adopting(abandoned, room, shared.store.listen(RUNS_LET_GO))

    async def rooms_of_tenants() -> list[RunsRooms]:
        return [tenancy.runs_of(tenant).rooms for tenant in await tenants_with_runs(shared.store)]

    tasks.start_soon(adopt)
    start_retention(tasks, settings, shared, tenancy, rooms_of_tenants)


def _watch(metrics: ReplicaMetrics, pool: Pool, tenancy: Tenancy) -> None:
    """What is there now, beside what has happened."""

    def sandboxes() -> dict[tuple[str, ...], float]:
        state = pool.state
        return {("in use",): state.acquired, ("warm",): len(state.warm), ("starting",): state.starting}

    metrics.watch("rlm_runs", "Runs that this replica drives.", (), lambda: {(): sum(r.live for r in tenancy.opened())})
    metrics.watch("rlm_sandboxes", "Sandboxes of this replica.", ("state",), sandboxes)
    metrics.watch("rlm_sandbox_slots", "Sandboxes that it may have.", (), lambda: {(): pool.state.slots})
