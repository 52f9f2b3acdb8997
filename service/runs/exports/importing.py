"""Importing: the lines of an export → a run of this tenant's own, finished, to be looked at, replayed and forked.

Everything in the file is hostile. It is read line by line under bounds; digests are computed, never believed; contexts
go the way of every other context; ids are made anew, and no id of the file is one here; nothing was paid by anybody
here, so every cost is zero. Nothing that could be seen is written before the whole file has been read and found good,
but for blobs, which are collected if nothing comes to refer to them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import anyio

from service.contexts.intake import check_name
from service.contexts.values import Context
from service.errors import BadRequest
from service.ids import CallId, CellId, ContextId, KeyId, RunId, SessionId, new_id
from service.journal.values import CellRecord, SessionRecord
from service.loop.events import (
    CallFinished,
    CellFinished,
    ChildRunFinished,
    Event,
    HostCallAnswered,
    RunFinished,
    RunSubmitted,
    RunTakenOver,
    SandboxAcquired,
)
from service.loop.values import BlobRef, ContextBinding
from service.money import NanoUSD
from service.runs.copies.renaming import Renaming
from service.runs.exports.checking import checked
from service.runs.exports.lines import PIECE_BYTES, ContextLine
from service.runs.exports.reading import ReadExport, read_all
from service.runs.rooms import RunsRooms
from service.runs.sessions.bindings import wanted_of
from service.runs.sessions.replaying import WANTED
from service.store.errors import StoreFailed

_ONLY_THERE = (SandboxAcquired, ChildRunFinished, RunTakenOver)
"""Events that tell of what there is not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Who imports, and what is done with each context before the run is there."""

    keep: Callable[[Context], Awaitable[None]]
    """Counts it; raises what refuses it."""
    keep_run: Callable[[RunId, Mapping[str, int]], Awaitable[None]]
    """Counts what the run itself keeps (digest, or its own id for its journal and log → bytes), payloads before they
    are written; raises what refuses it. What is counted may be told again."""
    key_id: KeyId | None = None
    key_ancestors: tuple[KeyId, ...] = ()


async def import_run(rooms: RunsRooms, chunks: AsyncIterator[bytes], importer: Importer) -> RunId:
    """Make the run of an export.

    Raises:
        BadRequest: the file is not an export, is broken, or is larger than what is allowed.
        QuotaExceeded: its contexts do not fit, or what the run itself keeps; there is no run then.
    """
    target = RunId(new_id("run"))
    try:
        await _import_as(target, rooms, chunks, importer)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await rooms.uncount(target)
        raise
    return target


async def _import_as(target: RunId, rooms: RunsRooms, chunks: AsyncIterator[bytes], importer: Importer) -> None:
    read = ReadExport()
    await read_all(rooms, chunks, read, partial(importer.keep_run, target))
    submitted = checked(read)
    await importer.keep_run(target, {target: read.held_bytes})
    session_id = SessionId(new_id("ses"))
    renaming = Renaming(source=submitted.run_id, target=target)
    new_ids = {line.context_id: await _keep_context(rooms, line, read, importer) for line in read.contexts}
    now = rooms.now()
    first = replace(
        submitted,
        at=_past(submitted.at, now),
        run_id=target,
        session_id=session_id,
        bindings=tuple(
            ContextBinding(context_id=new_ids[binding.context_id], variable=binding.variable)
            for binding in submitted.bindings
        ),
        key_id=importer.key_id,
        key_ancestors=importer.key_ancestors,
        profile=None,
        keeps_session=False,
        forked_from=None,
        imported_from=submitted.run_id,
    )
    events = [
        _event(replace(event, at=_past(event.at, now)), renaming, number)
        for number, event in enumerate(read.events[1:], 1)
        if not isinstance(event, _ONLY_THERE)
    ]
    if await rooms.blobs.touch((ref.sha256, ref.size_bytes) for ref in read.kept.values()):
        raise StoreFailed("the export took so long to come that some of it is not stored any more: import it again")
    await _keep_session(rooms, first, read, [renaming.record(record) for record in read.cells])
    await rooms.journal.open_run(first, events)


def _past(at: float, now: float) -> float:
    """A file may say what it likes, and retention goes by when a run ended."""
    return min(max(at, 0.0), now)


async def _keep_context(rooms: RunsRooms, line: ContextLine, read: ReadExport, importer: Importer) -> ContextId:
    """Under an id of its own, from what is in the file, or from what this tenant has of the same digest."""
    for part in line.parts:
        size_bytes = read.blobs[part.sha256].size_bytes if part.sha256 in read.blobs else None
        if part.sha256 not in read.kept and not await rooms.blobs.has(part.sha256):
            raise BadRequest(
                f"the export leaves out the context {line.name[:80]!r} (SHA-256 {part.sha256}, {size_bytes} bytes): "
                "store it first, then import again"
            )
    sources = [(part.name, _stream(rooms, part.sha256)) for part in line.parts]
    if line.kind == "named_texts":
        context = await rooms.contexts.put_named_texts(line.name, sources)
    else:
        if len(sources) != 1:
            raise BadRequest(f"the context {line.name[:80]!r} in the export must have one part")
        check_name(line.name)
        context = await rooms.contexts.put(line.name, line.kind, sources[0][1])
    await importer.keep(context)
    return context.context_id


async def _stream(rooms: RunsRooms, sha256: str) -> AsyncIterator[bytes]:
    path = rooms.blobs.path(sha256)
    size_bytes = await rooms.blobs.in_thread(lambda: path.stat().st_size)
    async for chunk in rooms.blobs.stream(BlobRef(sha256=sha256, size_bytes=size_bytes), PIECE_BYTES):
        yield chunk


def _event(event: Event, renaming: Renaming, number: int) -> Event:
    """The event as this installation has it, which has paid for nothing of it."""
    match event:
        case CallFinished():
            origin = event.origin
            return replace(
                event,
                call_id=CallId(f"{renaming.target}/imported/{number}"),
                cost=NanoUSD(0),
                is_inherited=True,
                origin=None if origin is None else replace(origin, cell_id=renaming.cell(origin.cell_id)),
            )
        case CellFinished():
            return replace(event, result=replace(event.result, cell_id=renaming.cell(event.result.cell_id)))
        case HostCallAnswered():
            return replace(event, key=replace(event.key, cell_id=renaming.cell(event.key.cell_id)))
        case RunFinished():
            return replace(event, spent=NanoUSD(0))
        case _:
            return event


async def _keep_session(rooms: RunsRooms, first: RunSubmitted, read: ReadExport, records: list[CellRecord]) -> None:
    """The run's session with its log: what it bound, then its cells. It is closed: nobody uses it any more."""
    header = read.header
    assert header is not None, "it was read first"
    session = rooms.session
    seeded = SessionRecord(session_id=first.session_id, created_at=rooms.now(), random_seed=header.random_seed)
    await session.records.create(seeded)
    if header.hash_seed is not None:
        await session.records.set_hash_seed(first.session_id, header.hash_seed)
    bound = CellRecord(
        cell_id=CellId(f"{first.run_id}.bind"),
        run_id=first.run_id,
        kind="bind",
        code=WANTED.dump_json(wanted_of(first)).decode(),
    )
    for record in (bound, *records):
        await session.cell_log.append(first.session_id, record)
    await session.records.close(first.session_id)
