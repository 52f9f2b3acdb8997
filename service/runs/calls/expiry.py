"""Holds that nobody came back to: settled at what they held, now and then, by every replica."""

from collections.abc import Callable, Iterable

import anyio
import structlog

from service.ledger.redis_ledger import Ledger
from service.store.rounds import tried_again

SETTLE_EVERY_S = 30.0

log = structlog.get_logger(__name__)


async def keep_settling(ledgers: Callable[[], Iterable[Ledger]], now: Callable[[], float]) -> None:
    """Settle holds that nobody resolved in time. For ever, and idempotent."""
    while True:
        for ledger in ledgers():
            with tried_again("expired_holds_not_settled", tenant_id=ledger.tenant):
                if settled := await ledger.settle_expired(now()):
                    log.warning("expired_holds_settled", tenant_id=ledger.tenant, holds=settled)
        await anyio.sleep(SETTLE_EVERY_S)
