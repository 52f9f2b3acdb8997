"""Holds that nobody came back to: settled at what they held, now and then, by every replica.

Those of a run that has not ended are not among them, however late it is: whoever drives it, or takes it over, settles
them with its journal (`recovery.settling`), so that journal and ledger say the same.
"""

from collections.abc import Awaitable, Callable, Iterable

import anyio
import structlog

from service.journal.redis_journal import Journal
from service.ledger.redis_ledger import Ledger
from service.store.rounds import tried_again

SETTLE_EVERY_S = 30.0

log = structlog.get_logger(__name__)


async def keep_settling(
    tenants: Callable[[], Iterable[tuple[Ledger, Journal]]], now: Callable[[], Awaitable[float]]
) -> None:
    """Settle holds that nobody resolved in time, by the store's clock. For ever, and idempotent."""
    while True:
        for ledger, journal in tenants():
            with tried_again("expired_holds_not_settled", tenant_id=ledger.tenant):
                if settled := await ledger.settle_expired(await now(), unfinished=journal.unfinished_of):
                    log.warning("expired_holds_settled", tenant_id=ledger.tenant, holds=settled)
        await anyio.sleep(SETTLE_EVERY_S)
