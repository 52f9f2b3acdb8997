"""Forgetting: finds the runs of a tenant whose time is over, oldest first, and deletes them, but for what they spent.

A run is due when it was submitted, and ended, longer ago than runs are kept. One that has not ended is never due; one
in a session that outlives its runs is not while that session is open, because the recorded answers of its host calls
bring the session's variables back. Every step may be repeated, by several replicas at once too: a run's place in the
list goes last, so what was broken off half-way is found again.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import structlog

from service.errors import NotFound
from service.ids import RunId, SessionId, born_at
from service.journal.values import SessionRecord
from service.loop.events import RunFinished, RunSubmitted
from service.runs.copies.cell_logs import forget_session
from service.runs.retention.forgetting_sessions import forget_sessions
from service.runs.rooms import RunsRooms
from service.store.connection import Clock
from service.store.errors import StoreFailed
from service.store.rounds import tried_again

LOOK_EVERY_S = 60.0
LOOKED_AT_ONCE = 200
"""Runs of one tenant in one look: what is behind them comes in the next."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a tenant's runs came to."""

    forgotten: int
    after: RunId | None
    """Where the next one goes on; None at the beginning, because this one has seen the last run that may be due."""


def is_due(submitted: RunSubmitted, ended_at: float | None, session: SessionRecord | None, *, before: float) -> bool:
    """Whether a run that was born before then is forgotten now. `session` is None when its record is gone. Pure."""
    if ended_at is None or ended_at >= before:
        return False
    if not submitted.keeps_session or session is None:
        return True
    return session.closed_at is not None and session.closed_at < before


async def forget_runs(rooms: RunsRooms, *, before: float, after: RunId | None = None) -> Look:
    """Forget what is due among the next `LOOKED_AT_ONCE` runs behind `after`.

    Raises:
        StoreFailed: some may not be forgotten; ask again.
    """
    found = await rooms.journal.oldest_runs(LOOKED_AT_ONCE, after)
    old = [run_id for run_id in found if (born := born_at(run_id)) is not None and born < before]
    forgotten = 0
    for run_id in old:
        try:
            forgotten += await _forget_if_due(rooms, run_id, before)
        except StoreFailed:
            raise
        except Exception:
            # One of the few boundaries: a run that cannot be read stays, and those behind it have their turn.
            log.exception("run_not_forgotten", tenant_id=rooms.journal.tenant, run_id=run_id)
    is_last = len(old) < LOOKED_AT_ONCE
    return Look(forgotten=forgotten, after=None if is_last else old[-1])


async def keep_forgetting(
    tenants: Callable[[], Awaitable[Iterable[RunsRooms]]],
    *,
    kept_s: float,
    now: Clock,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Until cancelled: a bounded look at each tenant's runs, again and again. A store that fails is asked again, and
    what cannot be read of one tenant keeps nobody else's runs."""
    places: dict[str, RunId | None] = {}
    session_places: dict[str, SessionId | None] = {}
    while True:
        with tried_again("runs_not_forgotten"):
            for rooms in await tenants():
                tenant = rooms.journal.tenant
                with tried_again("runs_not_forgotten", tenant_id=tenant):
                    before = await now() - kept_s
                    look = await forget_runs(rooms, before=before, after=places.get(tenant))
                    sessions = await forget_sessions(rooms, before=before, after=session_places.get(tenant))
                    places[tenant], session_places[tenant] = look.after, sessions.after
                    if look.forgotten or sessions.forgotten:
                        log.info("runs_forgotten", tenant_id=tenant, runs=look.forgotten, sessions=sessions.forgotten)
        await anyio.sleep(every_s)


async def _forget_if_due(rooms: RunsRooms, run_id: RunId, before: float) -> bool:
    ends = await rooms.journal.ends_of(run_id)
    if ends is None:
        await rooms.journal.forget(run_id)  # broken off half-way
        return True
    submitted, last = ends
    session = await _session_of(rooms, submitted)
    ended_at = await rooms.journal.ended_at(run_id) if isinstance(last, RunFinished) else None
    if not is_due(submitted, ended_at, session, before=before):
        return False
    await _forget_family(rooms, run_id)
    return True


async def _forget_family(rooms: RunsRooms, run_id: RunId) -> None:
    """Child runs before their parent, which names them; a session that nobody can come back to goes with its run."""
    for child_id in await rooms.journal.children_of(run_id):
        await _forget_family(rooms, child_id)
    ends = await rooms.journal.ends_of(run_id)
    if ends is not None:
        submitted, _ = ends
        if submitted.parent_run_id is not None:
            await _forget_contexts(rooms, submitted)
        await forget_session(rooms.session, submitted.session_id)
    await rooms.uncount(run_id)
    await rooms.journal.forget(run_id)


async def _forget_contexts(rooms: RunsRooms, child: RunSubmitted) -> None:
    """What its parent's code gave to a child run, and nobody else has. What stands in the tenant's list stays: children
    of earlier releases were given a context of the tenant's own where it had the same content."""
    for binding in child.bindings:
        if await rooms.contexts.is_listed(binding.context_id):
            continue
        with suppress(NotFound):
            await rooms.contexts.delete(binding.context_id)


async def _session_of(rooms: RunsRooms, submitted: RunSubmitted) -> SessionRecord | None:
    try:
        return await rooms.session.records.get(submitted.session_id)
    except NotFound:
        return None
