"""Exporting: a run as lines. What is in them is read as it is sent; nothing of any size is held."""

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from service.contexts.values import Context
from service.errors import BadRequest
from service.ids import RunId
from service.journal.values import CellRecord, RunNotFinished
from service.loop.events import Event, RunFinished, RunSubmitted, ValueRead
from service.loop.values import BlobRef
from service.runs.copies.cell_logs import was_changed_beside
from service.runs.exports.lines import (
    FORMAT,
    PIECE_BYTES,
    BlobLine,
    CellLine,
    ContextLine,
    EndLine,
    ExportLine,
    GivenPart,
    PieceLine,
    written,
    written_event,
)
from service.runs.rooms import RunsRooms
from service.runs.sessions.replaying import BLOB


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Everything of a run that an export holds, but for the payloads."""

    header: ExportLine
    events: tuple[Event, ...]
    cells: tuple[CellRecord, ...]
    contexts: tuple[Context, ...]


async def find_export(rooms: RunsRooms, run_id: RunId) -> Exported:
    """What there is to export of a run.

    Raises:
        NotFound: there is no such run, or a context of it is gone.
        RunNotFinished: it is still running.
        BadRequest: it does not stand for itself: a child run, a direct call or cell, or a run that began with what
            others had left in its session, or in whose session others changed something meanwhile.
    """
    events = tuple(recorded.event for recorded in await rooms.events_of(run_id))
    submitted = events[0]
    assert isinstance(submitted, RunSubmitted), "a journal begins with it"
    if not isinstance(events[-1], RunFinished):
        raise RunNotFinished(f"run {run_id} is still running: export it when it has ended")
    if submitted.is_direct or submitted.code is not None:
        raise BadRequest("a direct call or cell is not exported: its trajectory says everything")
    if submitted.parent_run_id is not None:
        raise BadRequest(f"run {run_id} is a child run: export the run that it belongs to")
    log = await rooms.session.cell_log.read(submitted.session_id)
    if log and log[0].run_id != run_id:
        raise BadRequest(f"run {run_id} began with what others had left in its session, and cannot stand by itself")
    if was_changed_beside(log, run_id):
        raise BadRequest(
            f"files or variables of run {run_id}'s session were changed from outside while it was under way, so it "
            "cannot stand by itself"
        )
    session = await rooms.session.records.get(submitted.session_id)
    ids = dict.fromkeys(binding.context_id for binding in submitted.bindings)
    return Exported(
        header=ExportLine(run_id=run_id, random_seed=session.random_seed, hash_seed=session.hash_seed, format=FORMAT),
        events=events,
        cells=tuple(record for record in log if record.run_id == run_id and record.kind in ("cell", "history")),
        contexts=tuple([await rooms.contexts.get(context_id) for context_id in ids]),
    )


async def export_lines(rooms: RunsRooms, found: Exported, *, inline_bytes: int) -> AsyncIterator[bytes]:
    """The lines. The run's own payloads are in it, and those of its contexts as far as `inline_bytes` go in all; what
    is left out (`left_out`) is named by digest and size.
    """
    yield written(found.header)
    for ref, fits in _inlined(found, inline_bytes):
        pieces = -(-ref.size_bytes // PIECE_BYTES) if fits else 0
        yield written(BlobLine(sha256=ref.sha256, size_bytes=ref.size_bytes, media=ref.media, pieces=pieces))
        if pieces:
            async with aclosing(_stream(rooms, ref)) as stream:
                async for piece in stream:
                    yield written(PieceLine(base64=base64.b64encode(piece).decode()))
    for context in found.contexts:
        parts = tuple(GivenPart(name=part.name, sha256=part.sha256) for part in context.parts)
        yield written(ContextLine(context_id=context.context_id, name=context.name, kind=context.kind, parts=parts))
    for event in found.events:
        yield written_event(event)
    for record in found.cells:
        yield written(CellLine(record=record))
    yield written(EndLine())


def left_out(found: Exported, *, inline_bytes: int) -> list[Context]:
    """The contexts that are not whole in the lines: an import elsewhere needs them stored first."""
    missing = {ref.sha256 for ref, fits in _inlined(found, inline_bytes) if not fits}
    return [context for context in found.contexts if any(part.sha256 in missing for part in context.parts)]


def _inlined(found: Exported, inline_bytes: int) -> list[tuple[BlobRef, bool]]:
    """Each payload once, and whether it is in the lines."""
    own = _own_payloads(found)
    left = inline_bytes - sum(ref.size_bytes for ref in own.values())
    inlined = [(ref, True) for ref in own.values()]
    parts = {part.sha256: part for context in found.contexts for part in context.parts if part.sha256 not in own}
    for part in parts.values():
        fits = part.size_bytes <= left
        left -= part.size_bytes if fits else 0
        inlined.append((BlobRef(sha256=part.sha256, size_bytes=part.size_bytes), fits))
    return inlined


def _own_payloads(found: Exported) -> dict[str, BlobRef]:
    """What nothing but this file could bring elsewhere: the answer, values, histories."""
    refs: dict[str, BlobRef] = {}
    for event in found.events:
        ref = event.blob if isinstance(event, ValueRead) else event.answer if isinstance(event, RunFinished) else None
        if ref is not None:
            refs.setdefault(ref.sha256, ref)
    for record in found.cells:
        if record.kind == "history":
            offloaded = BLOB.validate_json(record.code)
            refs.setdefault(offloaded.sha256, offloaded)
    return refs


async def _stream(rooms: RunsRooms, ref: BlobRef) -> AsyncGenerator[bytes, None]:
    async for piece in rooms.blobs.stream(ref, PIECE_BYTES):
        yield piece
