"""Where tenants and keys stand in the store, and how a record changes.

All of it is under one tag of the service's own, `_service`, because a key must be found before its tenant is known:
`tenant:{id}` and `key:{id}` hashes with a `record`; `tenants` and `tenant:{id}:keys` ids by birth; `sole_tenancies`
replicas. No tenant can be called so: ids of tenants are made here.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.ids import KeyId, TenantId
from service.store.connection import Part, Reply, Store
from service.store.keys import Keys
from service.store.scripts import load_script
from service.tenants.errors import ChangedMeanwhile

KEYS = Keys(TenantId("_service"))
TENANTS = KEYS("tenants")
SOLE_TENANCIES = KEYS("sole_tenancies")
"""Replicas by when their word lapses (`sole_tenancy`)."""
MOST_TRIES = 20

_CHANGE = load_script("service.tenants", "change.lua")
_T = TypeVar("_T")


def tenant_key(tenant: TenantId) -> str:
    return KEYS("tenant", tenant)


def api_key_key(key: KeyId) -> str:
    return KEYS("key", key)


def keys_of(tenant: TenantId) -> str:
    """The ids of a tenant's keys."""
    return KEYS("tenant", tenant, "keys")


async def change_record(
    store: Store,
    key: str,
    change: Callable[[bytes], tuple[_T, bytes, Sequence[Part]]],
    missing: Callable[[], Exception],
) -> _T:
    """Replace a record by what `change` makes of it, with further fields; nobody's change is overwritten.

    Args:
        store: where.
        key: of the hash.
        change: from the record to what is returned, the new record, and further fields with their values in turn (an
            empty value removes the field). May be asked several times.
        missing: what to raise when there is no record.

    Raises:
        ChangedMeanwhile: others were faster each time.
    """
    for _ in range(MOST_TRIES):
        before = await store.read("HGET", key, "record")
        if not isinstance(before, bytes):
            raise missing()
        value, after, more = change(before)
        # Run again after a lost reply, it finds its own record: no other change can have made the very same bytes of
        # the one that it replaces without being the same change.
        done: Reply = await store.run(_CHANGE, [key], [before, after, *more], is_idempotent=True)
        if done == b"done":
            return value
    raise ChangedMeanwhile("others kept changing the same record: try again")
