"""Erasing: the keys of a tenant go, and none can come again.

A tenant that is erased has a *tombstone*, one key for good beside where its own were. Scripts that could leave keys of
a tenant behind look for it (`scripts.load_script`), and so do plain commands (`Store.leave`); both raise
`TenantErased`. So whoever is still at work for the tenant, on whatever replica, writes nothing more.
"""

from service.errors import BadRequest
from service.ids import EMBEDDED_TENANT, TenantId
from service.store.connection import Store
from service.store.errors import StoreFailed
from service.store.key_scans import remove_keys
from service.store.keys import Keys

MOST_PASSES = 20
DEFAULT_STAYS = (
    "the tenant default cannot be erased: stop the service and delete its data directory and its store (with "
    "RLM_REDIS_URL all keys rlm:* there, in Compose its volumes)"
)


async def erase_keys(store: Store, tenant: TenantId) -> None:
    """Remove every key of a tenant, for good. Idempotent.

    Raises:
        StoreFailed: some may be left; ask again.
    """
    if tenant == EMBEDDED_TENANT:
        raise BadRequest(DEFAULT_STAYS)
    await store.write("SET", tombstone(tenant), "1")
    # What was being written when the tombstone came is found by a later pass.
    for _ in range(MOST_PASSES):
        if not await remove_keys(store, Keys(tenant)("*")):
            return
    raise StoreFailed(f"something keeps writing for {tenant}: stop its runs and erase it again")


def tombstone(tenant: TenantId) -> str:
    """The key that is there once a tenant is erased; in the slot of its own."""
    return f"rlm:erased:{{{Keys(tenant).tenant}}}"
