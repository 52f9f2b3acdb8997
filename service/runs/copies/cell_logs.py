"""Copies of a session's cell log, so that another session comes to the same namespace."""

import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from service.errors import NotFound
from service.ids import CellId, RunId, SessionId
from service.journal.values import CellRecord, SessionRecord
from service.runs.sessions.open_session import SessionRooms


def log_until(records: Sequence[CellRecord], run_id: RunId, cells: Collection[CellId]) -> list[CellRecord]:
    """What shaped the namespace up to these cells of the run: what was in the session before it, what it bound, and
    the cells. Pure.

    Of a run that never had a sandbox nothing is known, so that its copy begins with an empty session.
    """
    own = [place for place, record in enumerate(records) if record.run_id == run_id]
    if not own:
        return []
    wanted = [place for place in own if records[place].kind == "bind" or records[place].cell_id in cells]
    end = wanted[-1] + 1 if wanted else own[0]
    return [
        record
        for record in records[:end]
        if record.run_id != run_id or record.kind == "bind" or record.cell_id in cells
    ]


def was_changed_beside(records: Sequence[CellRecord], run_id: RunId) -> bool:
    """Whether the session's caller put something into it while the run was under way, as may be done beside cells. Of
    what a cell met then there is no record, only of the order. Pure."""
    own = [place for place, record in enumerate(records) if record.run_id == run_id]
    return bool(own) and any(record.run_id is None for record in records[own[0] : own[-1]])


async def copy_session(
    rooms: SessionRooms, source: SessionId, target: SessionId, records: Iterable[CellRecord], *, at: float, name: str
) -> None:
    """Keep a new session that begins with these records, its sandboxes seeded as the source's were. Idempotent."""
    record = SessionRecord(session_id=target, created_at=at, random_seed=secrets.randbits(48))
    try:
        given = await rooms.records.get(source)
    except NotFound:
        given = record
    details = replace(record.details, name=name)
    await rooms.records.create(replace(record, random_seed=given.random_seed, details=details))
    if given.hash_seed is not None:
        await rooms.records.set_hash_seed(target, given.hash_seed)
    for each in records:
        await rooms.cell_log.append(target, each)


async def forget_session(rooms: SessionRooms, session_id: SessionId) -> None:
    """Delete a session and its log: nobody uses it (any more). Idempotent."""
    await rooms.cell_log.forget(session_id)
    await rooms.records.forget(session_id)
