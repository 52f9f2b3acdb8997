"""Root runs that have ended, noted for whoever wants to tell of it: in the very step that ends them, so none is missed.

Noted only while somebody watches (`watched_key` exists), and the newest `MOST_ENDED` that nobody has taken in.
"""

from collections.abc import Sequence

from service.ids import RunId, TenantId
from service.store.connection import Store
from service.store.keys import Keys

MOST_ENDED = 10_000
ENDED_TOPIC = "runs_ended"
"""Hinted at whenever a run was noted, of whatever tenant."""


def watched_key(tenant: TenantId) -> str:
    """There, while the ends of the tenant's runs are to be noted."""
    return Keys(tenant)("runs", "watched")


def ended_key(tenant: TenantId) -> str:
    return Keys(tenant)("runs", "ended")


class EndedRuns:
    """Those of one tenant that were noted."""

    def __init__(self, store: Store, tenant: TenantId) -> None:
        self._store = store
        self._key = ended_key(tenant)

    async def noted(self, limit: int) -> list[RunId]:
        """The longest noted first."""
        reply = await self._store.read("LRANGE", self._key, 0, limit - 1)
        assert isinstance(reply, list)
        return [RunId(each.decode()) for each in reply if isinstance(each, bytes)]

    async def put_off(self, run_ids: Sequence[RunId]) -> None:
        """They could not be told of yet: those noted after them have their turn first. Not idempotent, and harmless.

        Raises:
            TenantErased: nothing is noted for the tenant any more.
        """
        for run_id in run_ids:
            await self._store.leave(("LREM", self._key, 0, run_id), ("RPUSH", self._key, run_id))

    async def forget(self, run_ids: Sequence[RunId]) -> None:
        """They were told of. Idempotent."""
        if run_ids:
            await self._store.write_many([("LREM", self._key, 0, run_id) for run_id in run_ids])
