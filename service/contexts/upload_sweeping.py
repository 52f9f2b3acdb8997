"""Sweeping: what is left of uploads that were given up is removed, whether their tenant ever comes back or not."""

from collections.abc import Awaitable, Callable, Iterable

import anyio
import structlog

from service.contexts.uploads import Uploads
from service.store.errors import StoreFailed

SWEEP_EVERY_S = 600.0

log = structlog.get_logger(__name__)


async def keep_sweeping(tenants: Callable[[], Awaitable[Iterable[Uploads]]], *, every_s: float = SWEEP_EVERY_S) -> None:
    """The uploads of every tenant, again and again, until cancelled. A store that fails is asked again."""
    while True:
        try:
            for uploads in await tenants():
                if swept := await uploads.sweep():
                    log.info("uploads_swept", uploads=swept)
        except StoreFailed as exc:
            log.warning("uploads_not_swept", error=str(exc))
        await anyio.sleep(every_s)
