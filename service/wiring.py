"""The composition root: settings become adapters, adapters become use cases.

The only module that knows which implementation stands behind which name. One exit stack owns every lifetime: what is
opened here is closed here, in reverse order.
"""

import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import anyio
import structlog

from service.configuration.file import Configuration, read_configuration
from service.contexts.redis_contexts import Contexts
from service.errors import BadRequest, sole_failure
from service.gateway.app import gateway_app
from service.gateway.listener import serve_gateway
from service.ids import EMBEDDED_TENANT
from service.journal.cell_log import CellLog
from service.journal.redis_journal import Journal
from service.journal.sessions import Sessions
from service.ledger.redis_ledger import Ledger
from service.models.catalog import Catalog
from service.models.providers import Access
from service.runs.bindings import BindsContexts
from service.runs.grants import Grants
from service.runs.metered_call import MeteredCalls, keep_settling
from service.runs.rooms import RunsRooms
from service.runs.runs import Runs
from service.runs.sessions import SessionRooms
from service.sandboxes.docker_launcher import Launcher, open_launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.pool import Pool, open_pool
from service.sandboxes.port import Provider, Template
from service.sandboxes.process_provider import ProcessProvider
from service.sandboxes.reaper import keep_reaping
from service.sandboxes.slots import Slots
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.connection import Store, open_store

WIDEST_MODES = {".": 0o711, "blobs": 0o700, "runtime": 0o711, "sessions": 0o711}
"""Of the data directory and those below that their rooms do not close themselves. A sandbox of another uid without
mounts of its own passes through three of them, and that is all that others may do there."""

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


def open_catalog(settings: Settings, configuration: Configuration) -> Catalog:
    """The models that these settings reach.

    Raises:
        BadRequest: a key cannot be sent.
    """
    return Catalog(
        access=Access(
            openai_base_url=settings.openai_base_url,
            openai_api_key=settings.openai_api_key,
            anthropic_base_url=settings.anthropic_base_url,
            anthropic_api_key=settings.anthropic_api_key,
            variables=settings.environment,
        ),
        entries=configuration.models,
        entries_path=configuration.path,
        concurrency=settings.model_concurrency,
    )


@asynccontextmanager
async def open_provider(settings: Settings) -> AsyncIterator[Provider]:
    """What starts sandboxes here, and what it needs for that.

    Raises:
        SandboxStartFailed: the launcher did not come up.
    """
    match settings.sandbox:
        case "process":
            yield ProcessProvider(settings.data_directory / "runtime", allow_unsafe=settings.unsafe_no_sandbox)
        case "docker":
            async with open_docker_launcher(settings) as launcher:
                yield DockerProvider(
                    launcher,
                    sessions=sessions_directory(settings),
                    image=settings.docker_image,
                    runtime=settings.docker_runtime,
                    trust_runc=settings.trust_runc,
                )
        case _:
            assert_never(settings.sandbox)


@asynccontextmanager
async def open_docker_launcher(settings: Settings) -> AsyncIterator[Launcher]:
    """The launcher that runs already, else one of our own for the time of the block."""
    if settings.launcher_socket is not None:
        yield Launcher(settings.launcher_socket)
        return
    async with open_launcher(
        socket_path=settings.data_directory / f"launcher-{os.getpid()}.sock",
        sessions=sessions_directory(settings),
        image=settings.docker_image,
        docker_host=settings.docker_host,
    ) as launcher:
        yield launcher


def sessions_directory(settings: Settings) -> Path:
    """Where session directories stand."""
    return settings.data_directory / "sessions"


def make_data_directory(settings: Settings) -> None:
    """Create it for its owner only, or close one that stands open: what lies in it is every tenant's, and whoever
    reaches its sockets can speak to them.

    Raises:
        BadRequest: it cannot be created, belongs to somebody else, stays open to others or is not writable.
    """
    directory = settings.data_directory
    try:
        for name, widest in WIDEST_MODES.items():
            path = directory / name
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            _close_to_others(path, widest)
    except OSError as exc:
        raise BadRequest(
            f"the data directory {directory} cannot be created and closed to others ({exc.strerror}): set RLM_DATA_DIR"
        ) from exc
    if not os.access(directory, os.W_OK | os.X_OK):
        raise BadRequest(f"the data directory {directory} is not writable: set RLM_DATA_DIR to one that is")


def _close_to_others(path: Path, widest: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise BadRequest(
                f"{path} belongs to uid {found.st_uid} and the service runs as uid {os.geteuid()}: set RLM_DATA_DIR to "
                "a directory of its own"
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode | widest == widest:
            return
        os.fchmod(descriptor, mode & 0o700)
        if os.fstat(descriptor).st_mode & 0o077:
            raise BadRequest(
                f"{path} stays open to other users of this machine: set RLM_DATA_DIR to a file system "
                "that has owners and modes"
            )
        _log.warning("directory_closed_to_others", path=str(path), mode_before=f"{mode:04o}")
    finally:
        os.close(descriptor)
