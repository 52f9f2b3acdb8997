"""How long contexts stay: those that came along with a conversation until nobody needs them, the others until deleted.

Keys (under the tenant's tag): `contexts:transient` those that came along, by when a conversation brought them last
(the store's time); `contexts:left` those that are gone and of which nobody has said yet that they are counted no more.
A context is noted there in the very step that ends it.
"""

from collections.abc import Sequence

from service.ids import ContextId, TenantId
from service.store.connection import Reply, Store
from service.store.keys import Keys


class ContextLives:
    """Of one tenant's contexts. `Contexts` and `OpenContexts` write the notes, whoever counts reads them."""

    def __init__(self, store: Store, tenant: TenantId) -> None:
        self._store = store
        keys = Keys(tenant)
        self.transient_key = keys("contexts", "transient")
        self.left_key = keys("contexts", "left")

    async def make_lasting(self, context_ids: Sequence[ContextId]) -> None:
        """Somebody names transient contexts: they stay until they are deleted. Idempotent."""
        await self._store.write("ZREM", self.transient_key, *context_ids)

    async def unused_since(self, before: float, limit: int) -> list[ContextId]:
        """Transient contexts that no conversation has brought along since then, the longest unused first."""
        key, last = self.transient_key, repr(before)
        return _ids(await self._store.read("ZRANGE", key, "-inf", last, "BYSCORE", "LIMIT", 0, limit))

    async def use_again(self, context_id: ContextId, at: float) -> None:
        """A transient context is in use at this time. Idempotent; a lasting one, or none, stays what it is."""
        await self._store.write("ZADD", self.transient_key, "XX", repr(at), context_id)

    async def left(self, limit: int) -> list[ContextId]:
        """Some of those that are gone and may still be counted."""
        return _ids(await self._store.read("SRANDMEMBER", self.left_key, limit))

    async def forget_left(self, context_id: ContextId) -> None:
        """It is counted no more. Idempotent."""
        await self._store.write("SREM", self.left_key, context_id)


def _ids(reply: Reply) -> list[ContextId]:
    assert isinstance(reply, list)
    return [ContextId(each.decode()) for each in reply if isinstance(each, bytes)]
