"""The whole service, opened for the time of a block. One exit stack owns every lifetime: what is opened here is closed
here, in reverse order.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import structlog

from service.configuration.file import read_configuration
from service.contexts.redis_contexts import Contexts
from service.errors import sole_failure
from service.gateway.app import gateway_app
from service.gateway.listener import serve_gateway
from service.ids import EMBEDDED_TENANT
from service.journal.cell_log import CellLog
from service.journal.redis_journal import Journal
from service.journal.sessions import Sessions
from service.ledger.redis_ledger import Ledger
from service.models.catalog import Catalog
from service.runs.calls.metered_call import MeteredCalls, keep_settling
from service.runs.host_calls.grants import Grants
from service.runs.rooms import RunsRooms
from service.runs.runs import Runs
from service.runs.sessions.bindings import BindsContexts
from service.runs.sessions.open_session import SessionRooms
from service.sandboxes.pool import Pool, open_pool
from service.sandboxes.port import Provider, Template
from service.sandboxes.reaper import keep_reaping
from service.sandboxes.slots import Slots
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.connection import Store, open_store
from service.wiring.data_directory import make_data_directory, sessions_directory
from service.wiring.models import open_catalog
from service.wiring.sandboxes import open_provider

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything a face of the service (command line, web) works with."""

    settings: Settings
    store: Store
    blobs: Blobs
    contexts: Contexts
    ledger: Ledger
    catalog: Catalog
    provider: Provider
    pool: Pool
    runs: Runs


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """The whole service on this machine, for the time of the block. On leaving it, live runs are cancelled and settle.

    Raises:
        BadRequest: the data directory cannot be used, or the configuration file is wrong.
        StoreFailed: no store can be reached or started.
    """
    try:
        async with _open_rooms(settings) as service:
            yield service
    except BaseExceptionGroup as group:
        # Every task group on the way out wraps; callers catch what was raised, not how deep.
        raise sole_failure(group) from group


@asynccontextmanager
async def _open_rooms(settings: Settings) -> AsyncIterator[Service]:
    make_data_directory(settings)
    tenant = EMBEDDED_TENANT
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(data_directory=settings.data_directory, redis_url=settings.redis_url)
        )
        blobs = Blobs(settings.data_directory / "blobs")
        contexts = Contexts(store, blobs, tenant)
        journal = Journal(store, blobs, tenant)
        ledger = Ledger(store, tenant, time.time)
        configuration = read_configuration(settings.config_file)
        catalog = await stack.enter_async_context(open_catalog(settings, configuration))
        grants = Grants(time.time)
        gateway_socket = await stack.enter_async_context(serve_gateway(gateway_app(grants), settings.data_directory))
        provider = await stack.enter_async_context(open_provider(settings))
        sessions = sessions_directory(settings)
        template = Template(memory_bytes=settings.sandbox_memory_bytes)
        pool = await stack.enter_async_context(
            open_pool(
                provider,
                sessions=sessions,
                gateway_socket=gateway_socket,
                slots=settings.sandbox_slots,
                warm=settings.warm_sandboxes,
                template=template,
            )
        )
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(keep_reaping, provider, sessions)
        tasks.start_soon(keep_settling, ledger, time.time)
        runs = Runs(
            RunsRooms(
                journal=journal,
                blobs=blobs,
                ledger=ledger,
                metered=MeteredCalls(ledger, time.time),
                now=time.time,
                session=SessionRooms(
                    pool=pool,
                    template=template,
                    records=Sessions(store, tenant),
                    journal=journal,
                    cell_log=CellLog(store, blobs, tenant),
                    blobs=blobs,
                    contexts=BindsContexts(contexts),
                ),
                contexts=contexts,
                catalog=catalog,
                packs=configuration.prompt_packs,
                provider=provider,
                slots=Slots(settings.sandbox_slots),
                grants=grants,
            ),
            tasks,
        )
        try:
            yield Service(
                settings=settings,
                store=store,
                blobs=blobs,
                contexts=contexts,
                ledger=ledger,
                catalog=catalog,
                provider=provider,
                pool=pool,
                runs=runs,
            )
        finally:
            with anyio.CancelScope(shield=True):
                await runs.stop()
            tasks.cancel_scope.cancel()
