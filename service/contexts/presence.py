"""Presence: whether a store knows of anybody's contexts at all. Each of them has a payload among the blobs."""

from contextlib import aclosing

from service.store.connection import Store
from service.store.key_scans import pages_of_keys


async def any_is_kept(store: Store) -> bool:
    """Of any tenant. Goes through the names of all keys until there is one. Raises `StoreFailed`."""
    async with aclosing(pages_of_keys(store, "rlm:{*}:contexts")) as pages:
        async for names in pages:
            if names:
                return True
    return False
