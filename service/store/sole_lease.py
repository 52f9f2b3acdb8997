"""A lease that one of all replicas has at a time: for work that need not be done twice at once.

Whoever was paused past its lease does not know; what is done under one must be safe beside another who does the same.
"""

from service.store.connection import Part, Store
from service.store.scripts import load_script

_HOLD = load_script("service.store", "sole_lease.lua")


class SoleLease:
    """One replica's claim on it."""

    def __init__(self, store: Store, key: str, replica: str) -> None:
        self._store = store
        self._key = key
        self._replica = replica

    async def hold(self, *, for_s: float) -> bool:
        """Have it for so long from now, unless another replica has it; again, to keep it. Idempotent."""
        arguments: list[Part] = [self._replica, int(for_s * 1000)]
        return await self._store.run(_HOLD, [self._key], arguments, is_idempotent=True) == 1
