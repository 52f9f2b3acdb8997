"""Sweeping: what is left of uploads that were given up is removed, whether their tenant ever comes back or not."""

from collections.abc import Awaitable, Callable, Iterable

import anyio
import structlog

from service.contexts.uploads import Uploads
from service.store.rounds import tried_again

SWEEP_EVERY_S = 600.0

log = structlog.get_logger(__name__)


async def keep_sweeping(tenants: Callable[[], Awaitable[Iterable[Uploads]]], *, every_s: float = SWEEP_EVERY_S) -> None:
    """The uploads of every tenant, again and again, until cancelled."""
    while True:
        with tried_again("uploads_not_swept"):
            for uploads in await tenants():
                with tried_again("uploads_not_swept"):
                    if swept := await uploads.sweep():
                        log.info("uploads_swept", uploads=swept)
        await anyio.sleep(every_s)
