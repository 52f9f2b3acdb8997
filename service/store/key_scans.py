"""Key scans: every key of a pattern, a page at a time, while others go on reading and writing.

A key that is there from the beginning to the end is found; one that comes or goes meanwhile may be found or not.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from service.store.connection import Store

KEYS_AT_ONCE = 500


async def pages_of_keys(store: Store, pattern: str) -> AsyncGenerator[list[bytes], None]:
    """The keys that match, in no order, some of them twice; a page may be empty."""
    cursor = b"0"
    while True:
        reply = await store.read("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_AT_ONCE)
        match reply:
            case [bytes(following), list(names)]:
                yield [name for name in names if isinstance(name, bytes)]
            case _:
                raise AssertionError("SCAN answers with a cursor and names")
        cursor = following
        if cursor == b"0":
            return


async def remove_keys(store: Store, pattern: str) -> int:
    """Remove the keys that match; how many were found. What is written meanwhile may be found or not."""
    found = 0
    async with aclosing(pages_of_keys(store, pattern)) as pages:
        async for names in pages:
            if names:
                await store.write("UNLINK", *names)
                found += len(names)
    return found
