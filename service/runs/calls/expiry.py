"""Holds that nobody came back to: settled at what they held, now and then, by every replica."""

from collections.abc import Callable, Iterable

import anyio
import structlog

from service.ledger.redis_ledger import Ledger
from service.store.errors import StoreFailed

SETTLE_EVERY_S = 30.0

log = structlog.get_logger(__name__)


async def keep_settling(ledgers: Callable[[], Iterable[Ledger]], now: Callable[[], float]) -> None:
    """Settle holds that nobody resolved in time. For ever, and idempotent."""
    while True:
        for ledger in ledgers():
            try:
                settled = await ledger.settle_expired(now())
            except StoreFailed as exc:
                log.warning("expired_holds_not_settled", tenant_id=ledger.tenant, error=str(exc))
                continue
            except Exception:
                # One of the few boundaries: what one tenant's records do must not concern the others.
                log.exception("expired_holds_not_settled", tenant_id=ledger.tenant)
                continue
            if settled:
                log.warning("expired_holds_settled", tenant_id=ledger.tenant, holds=settled)
        await anyio.sleep(SETTLE_EVERY_S)
