"""Rewriting the server's log: what was deleted stands in an append-only file until the server writes it anew.

The server does that by itself once the file has grown (from 64 MB on, as it comes), so a small one keeps what was
deleted for ever.
"""

import anyio
import structlog

from service.store.connection import Store
from service.store.errors import StoreFailed

REWRITTEN_WITHIN_S = 60.0
LOOK_EVERY_S = 0.05

_log = structlog.get_logger(__name__)


async def rewrite_log(store: Store, *, within_s: float = REWRITTEN_WITHIN_S) -> bool:
    """Have the server write its append-only file anew, and wait until it has: what was deleted before is in it no more.

    Return whether it did; where not, the log says why. True also where there is no such file.

    Raises:
        StoreFailed: the server does not answer.
    """
    remedy = "say BGREWRITEAOF to the server: until then its append-only file has what was deleted"
    with anyio.move_on_after(within_s):
        await _ended(store)  # One that has begun already has what was deleted.
        if (await _facts(store)).get("aof_enabled") == "0":
            return True
        try:
            await store.write("BGREWRITEAOF")
        except StoreFailed as exc:
            _log.error("store_log_not_rewritten", error=str(exc), remedy=remedy)
            return False
        facts = await _ended(store)
        if facts.get("aof_last_bgrewrite_status") == "ok":
            return True
        _log.error("store_log_not_rewritten", error="the rewrite failed; the server's log says why", remedy=remedy)
        return False
    _log.error("store_log_not_rewritten", error=f"it took longer than {within_s:.0f} s", remedy=remedy)
    return False


async def _ended(store: Store) -> dict[str, str]:
    """What the server says of its files once no rewrite is under way or waits for its turn."""
    while True:
        facts = await _facts(store)
        if facts.get("aof_rewrite_in_progress") != "1" and facts.get("aof_rewrite_scheduled") != "1":
            return facts
        await anyio.sleep(LOOK_EVERY_S)


async def _facts(store: Store) -> dict[str, str]:
    reply = await store.read("INFO", "persistence")
    assert isinstance(reply, bytes)
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
