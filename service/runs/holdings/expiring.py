"""Expiring: gives back what nobody asks to end, and what somebody was killed over.

Contexts that came along with a conversation are deleted when no conversation has brought them along for a while and no
run is under way with them. Open contexts end when nobody adds to them. Whatever ends, by this or by its tenant, is
noted in the very step that ends it, and the note goes when it is counted no more: so a count outlives what it counts
only until the next look.
"""

from collections.abc import Awaitable, Callable, Iterable

import anyio
import structlog

from service.errors import NotFound
from service.ids import ContextId, SessionId, born_at
from service.runs.holdings.holdings import uncount_context, uncount_session
from service.runs.rooms import RunsRooms
from service.store.connection import Clock
from service.store.rounds import tried_again

LOOK_EVERY_S = 600.0
LOOKED_AT_ONCE = 500
"""Of each kind and tenant in one look; what is behind them comes in the next."""
MOST_UNFINISHED = 10_000
SUBMITTED_WITHIN_S = 3600.0
"""How long after its contexts were put a run may be submitted."""

log = structlog.get_logger(__name__)


async def expire(rooms: RunsRooms, *, now: float, kept_s: float | None) -> int:
    """One look at one tenant: how many contexts and sessions are counted no more. It may be broken off anywhere.

    Raises:
        StoreFailed: ask again.
    """
    await rooms.open_contexts.end_lapsed(now, LOOKED_AT_ONCE)
    if kept_s is not None:
        await _expire_transient(rooms, now, now - kept_s)
    uncounted = 0
    for context_id in await rooms.contexts.lives.left(LOOKED_AT_ONCE):
        await uncount_context(rooms, context_id)
        uncounted += 1
    for session_id in await rooms.session.records.left(LOOKED_AT_ONCE):
        if await _is_over(rooms, session_id):
            await uncount_session(rooms, session_id)
            uncounted += 1
    return uncounted


async def keep_expiring(
    tenants: Callable[[], Awaitable[Iterable[RunsRooms]]],
    *,
    kept_s: float | None,
    now: Clock,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Every tenant, again and again, until cancelled. `kept_s` is how long a context that came along is kept after it
    was last brought; None for ever. What cannot be read of one tenant holds up nobody else."""
    while True:
        with tried_again("nothing_expired"):
            for rooms in await tenants():
                tenant = rooms.journal.tenant
                with tried_again("nothing_expired", tenant_id=tenant):
                    if uncounted := await expire(rooms, now=await now(), kept_s=kept_s):
                        log.info("holdings_expired", tenant_id=tenant, contexts_and_sessions=uncounted)
        await anyio.sleep(every_s)


async def _expire_transient(rooms: RunsRooms, now: float, before: float) -> None:
    due = await rooms.contexts.lives.unused_since(before, LOOKED_AT_ONCE)
    if not due:
        return
    used = await _used_by_runs(rooms, before)
    for context_id in due:
        if used is None or context_id in used:
            await rooms.contexts.lives.use_again(context_id, now)
        else:
            await rooms.contexts.expire(context_id, unused_since=before)


async def _used_by_runs(rooms: RunsRooms, before: float) -> set[ContextId] | None:
    """Contexts of the runs under way that may have contexts which were put before then; None where they are too many
    to tell. A run is submitted right after its contexts were put, or put again: younger ones have no such contexts."""
    unfinished = await rooms.journal.unfinished(MOST_UNFINISHED)
    if len(unfinished) == MOST_UNFINISHED:
        return None
    used: set[ContextId] = set()
    for run_id in unfinished:
        born = born_at(run_id)
        if born is not None and born > before + SUBMITTED_WITHIN_S:
            continue
        ends = await rooms.journal.ends_of(run_id)
        if ends is not None:
            used.update(binding.context_id for binding in ends[0].bindings)
    return used


async def _is_over(rooms: RunsRooms, session_id: SessionId) -> bool:
    try:
        return (await rooms.session.records.get(session_id)).closed_at is not None
    except NotFound:
        return True
