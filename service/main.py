"""`serve`: the whole service behind its public listener, until somebody tells it to end.

Two listeners, never one: the gateway's, which `wiring` opens and only sandboxes reach, and the public one.
"""

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import structlog

from service.ids import new_id
from service.runs.answering.live import LiveAnswers
from service.sandboxes.capabilities import Exposure, check_exposure, refusal
from service.settings import Settings
from service.store.pairing import Pairing
from service.tenants.sole_tenancy import sole_tenancy
from service.web.app import create_app
from service.web.counting import metrics_app
from service.web.listener import Listening, serve_public
from service.web.request_places import RequestPlaces
from service.web.rooms import Drain, WebRooms
from service.web.store_probe import StoreProbe
from service.wiring.blobs import blobs_directory
from service.wiring.keys import make_first_key
from service.wiring.open_files import connections_that_fit
from service.wiring.service import Service, open_service

METRICS_CONNECTIONS = 32
"""A few who read, now and then."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What whoever started it wants to know once requests are answered."""

    address: str
    first_key_file: Path | None
    """Where the first admin key stands, at the first start ever."""


async def serve(settings: Settings, ready: Callable[[Serving], None]) -> None:
    """Answer requests until SIGTERM or SIGINT, then end in good order; at a second signal requests under way are waited
    for no longer.

    Raises:
        BadRequest: a setting cannot be used.
        StoreFailed: no store can be reached or started.
        SandboxRefused: cells cannot be isolated here, or not well enough for those who would be served.
    """
    settings = replace(settings, most_connections=connections_that_fit(settings.most_connections))
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            open_service(settings, serves=True) as service,
            anyio.create_task_group() as tasks,
            _checked_exposure(settings, service),
        ):
            first_key_file, rooms = await open_web(settings, service, tasks)
            listening = Listening(
                host=settings.host,
                port=settings.port,
                most_connections=settings.most_connections,
                drain_s=settings.drain_s,
            )
            urgent = anyio.Event()
            async with (
                _served_metrics(settings, rooms),
                serve_public(create_app(rooms), listening, before_end=rooms.drain.begin, urgent=urgent) as address,
            ):
                ready(Serving(address=address, first_key_file=first_key_file))
                await _told_to_end(signals, rooms.drain)
                if await _hurried(signals, within_s=settings.drain_notice_s):
                    urgent.set()
                # While requests end: other replicas go on with the runs at once.
                tasks.start_soon(service.let_go)
                tasks.start_soon(_break_off_at_next, signals, urgent)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _served_metrics(settings: Settings, rooms: WebRooms) -> AsyncIterator[None]:
    """On a listener of its own, if there is to be one. Raises `BadRequest`."""
    if settings.metrics_port is None:
        yield
        return
    listening = Listening(
        host=settings.metrics_host,
        port=settings.metrics_port,
        named="RLM_METRICS_HOST and RLM_METRICS_PORT",
        most_connections=METRICS_CONNECTIONS,
        drain_s=0.0,
    )
    async with serve_public(
        metrics_app(rooms.metrics.text), listening, before_end=lambda: None, urgent=anyio.Event()
    ) as address:
        _log.info("metrics_served", address=address)
        yield


async def _told_to_end(signals: AsyncIterator[signal.Signals], drain: Drain) -> None:
    """By a signal, or by the operator over the API."""
    async with anyio.create_task_group() as waiting:

        async def hear() -> None:
            await anext(signals)
            drain.ask()

        waiting.start_soon(hear)
        await drain.asked.wait()
        waiting.cancel_scope.cancel()


async def _hurried(signals: AsyncIterator[signal.Signals], *, within_s: float) -> bool:
    """Let balancers learn from `/readyz` that this replica is to end, while it still answers. Whether somebody asked
    again meanwhile."""
    with anyio.move_on_after(within_s):
        await anext(signals)
        return True
    return False


async def _break_off_at_next(signals: AsyncIterator[signal.Signals], urgent: anyio.Event) -> None:
    await anext(signals)
    urgent.set()


@asynccontextmanager
async def _checked_exposure(settings: Settings, service: Service) -> AsyncIterator[None]:
    """Before anybody is let in; it stays as it was found for the time of the block. Raises `SandboxRefused`."""
    isolation = await service.provider.isolation()
    several = Exposure(bind_host=settings.host, tenants_share=True)
    async with AsyncExitStack() as stack:
        if refusal(isolation, several) is not None:
            await stack.enter_async_context(sole_tenancy(service.store, new_id("rep")))
        tenants = await service.registry.tenants.page(limit=2)
        check_exposure(isolation, replace(several, tenants_share=len(tenants) > 1))
        yield


async def open_web(settings: Settings, service: Service, tasks: anyio.abc.TaskGroup) -> tuple[Path | None, WebRooms]:
    """What the web needs of the service. Raises `BadRequest`: the first key cannot be kept."""
    api_keys = service.registry.api_keys
    first_key_file = await make_first_key(settings, api_keys)
    rooms = WebRooms(
        tenancy=service.tenancy,
        api_keys=api_keys,
        registry=service.registry,
        webhooks=service.webhooks,
        metrics=service.metrics,
        drain=Drain(service.store.wake_listeners),
        probe=StoreProbe(service.store, Pairing(service.store, blobs_directory(settings)), service.disk, tasks),
        profiles=service.profiles,
        live=LiveAnswers(tasks),
        places=RequestPlaces(settings.most_connections),
        erasure=service.erasure,
        now=time.time,
        runs_kept_s=settings.runs_kept_s,
    )
    return first_key_file, rooms
