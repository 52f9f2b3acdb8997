"""Finishing: erasures that somebody has asked for are carried out by a replica, another one where that died."""

from contextlib import suppress

from service.errors import NotFound
from service.runs.erasure.erasure import STOP_WITHIN_S, Erasure
from service.store.hints import Hint
from service.store.rounds import tried_again
from service.store.sole_lease import SoleLease
from service.tenants.values import OPERATOR

LEASE = "rlm:erasures_finisher"
LEASE_S = 4 * STOP_WITHIN_S
"""Most erasures take less. Two replicas that erase the same tenant do no harm."""
LOOK_EVERY_S = 60.0


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
            with tried_again("erasures_not_looked_for"):
                for tenant_id in await erasure.unfinished():
                    if not await lease.hold(for_s=LEASE_S):
                        break
                    # Absent where another replica was there first.
                    with tried_again("tenant_not_erased", tenant_id=tenant_id), suppress(NotFound):
                        await erasure.finish(tenant_id, by=OPERATOR, stop_within_s=stop_within_s)
            await asked.wait(at_most_s=every_s)
