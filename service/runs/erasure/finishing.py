"""Finishing: erasures that somebody has asked for are carried out by a replica, another one where that died."""

import structlog

from service.errors import NotFound
from service.ids import TenantId
from service.runs.erasure.erasure import STOP_WITHIN_S, Erasure
from service.store.errors import StoreFailed
from service.store.hints import Hint
from service.store.sole_lease import SoleLease
from service.tenants.values import OPERATOR

LEASE = "rlm:erasures_finisher"
LEASE_S = 4 * STOP_WITHIN_S
"""Most erasures take less. Two replicas that erase the same tenant do no harm."""
LOOK_EVERY_S = 60.0

log = structlog.get_logger(__name__)


async def keep_finishing(
    erasure: Erasure,
    lease: SoleLease,
    asked: Hint,
    *,
    every_s: float = LOOK_EVERY_S,
    stop_within_s: float = STOP_WITHIN_S,
) -> None:
    """Until cancelled. `asked` rings when an erasure begins. One that fails is tried again, and holds up no other."""
    with asked:
        while True:
            try:
                for tenant_id in await erasure.unfinished():
                    if not await lease.hold(for_s=LEASE_S):
                        break
                    await _finish(erasure, tenant_id, stop_within_s)
            except StoreFailed as exc:
                log.warning("erasures_not_looked_for", error=str(exc))
            await asked.wait(at_most_s=every_s)


async def _finish(erasure: Erasure, tenant_id: TenantId, stop_within_s: float) -> None:
    try:
        await erasure.finish(tenant_id, by=OPERATOR, stop_within_s=stop_within_s)
    except NotFound:
        return  # another replica was there first
    except StoreFailed as exc:
        log.warning("tenant_not_erased", tenant_id=tenant_id, error=str(exc))
    except Exception:
        # One of the few boundaries: what is wrong with one tenant's records keeps no other from being erased.
        log.exception("tenant_not_erased", tenant_id=tenant_id)
