"""Forgetting closed sessions: those that no run leads to any more, which `forgetting` would have taken with it.

A session is due when it was closed longer ago than runs are kept, and the run that was in it last is forgotten. One
that is open never is.
"""

from dataclasses import dataclass

from service.errors import NotFound
from service.ids import SessionId, born_at
from service.journal.values import SessionRecord
from service.runs.copies.cell_logs import forget_session
from service.runs.holdings.holdings import uncount_session
from service.runs.rooms import RunsRooms

LOOKED_AT_ONCE = 200
"""Sessions of one tenant in one look: what is behind them comes in the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsLook:
    """What one look at a tenant's sessions came to."""

    forgotten: int
    after: SessionId | None
    """Where the next one goes on; None at the beginning, because this one has seen the last that may be due."""


def is_session_due(record: SessionRecord, *, has_run: bool, before: float) -> bool:
    """Whether a session is forgotten now; `has_run` while the run that was in it last is there. Pure."""
    return record.closed_at is not None and record.closed_at < before and not has_run


async def forget_sessions(rooms: RunsRooms, *, before: float, after: SessionId | None = None) -> SessionsLook:
    """Forget what is due among the next `LOOKED_AT_ONCE` sessions behind `after`.

    Raises:
        StoreFailed: some may not be forgotten; ask again.
    """
    found = await rooms.session.records.oldest(LOOKED_AT_ONCE, after)
    old = [session_id for session_id in found if (born := born_at(session_id)) is not None and born < before]
    forgotten = 0
    for session_id in old:
        try:
            record = await rooms.session.records.get(session_id)
        except NotFound:
            await rooms.session.records.forget(session_id)  # broken off half-way
            continue
        run_id = await rooms.session.records.user_of(session_id)
        has_run = run_id is not None and await rooms.journal.exists(run_id)
        if is_session_due(record, has_run=has_run, before=before):
            # Counts first: without its record nobody would find them again.
            await uncount_session(rooms, session_id)
            await forget_session(rooms.session, session_id)
            forgotten += 1
    return SessionsLook(forgotten=forgotten, after=old[-1] if len(old) == LOOKED_AT_ONCE else None)
