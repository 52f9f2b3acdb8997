"""Importing: the lines of an export → a run of this tenant's own, finished, to be looked at, replayed and forked.

Everything in the file is hostile. It is read line by line under bounds; digests are computed, never believed; contexts
go the way of every other context; ids are made anew, and no id of the file is one here; nothing was paid by anybody
here, so every cost is zero. Nothing that could be seen is written before the whole file has been read and found good,
but for blobs, which stay if nothing comes to refer to them: none are collected yet.
"""

import binascii
import math
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
from pydantic import ValidationError

from service.contexts.intake import check_name
from service.contexts.values import Context
from service.errors import BadRequest
from service.ids import CallId, CellId, ContextId, KeyId, RunId, SessionId, new_id
from service.journal.codec import decode
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
    ValueRead,
)
from service.loop.values import BlobRef, ContextBinding
from service.money import NanoUSD
from service.runs.copies.renaming import Renaming
from service.runs.exports.lines import (
    MOST_HELD_BYTES,
    PIECE_BYTES,
    BlobLine,
    CellLine,
    ContextLine,
    EndLine,
    EventLine,
    ExportLine,
    Line,
    PieceLine,
    event_text,
    read_line,
)
from service.runs.host_calls.host_calls import check_recorded
from service.runs.rooms import RunsRooms
from service.runs.sessions.bindings import wanted_of
from service.runs.sessions.replaying import BLOB, WANTED
from service.runs.submission.first_event import MAX_CONTEXTS, check_request
from service.runs.values import RunRequest
from service.store.errors import BlobTooLarge, StoreFailed

LARGEST_EXPORT_BYTES = 1 << 30
MOST_EVENTS = 20_000
MOST_CELLS = 20_000
MOST_BLOBS = 20_000
MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 200_000

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


@dataclass(slots=True)
class _Read:
    """What has been read so far."""

    header: ExportLine | None = None
    blobs: dict[str, BlobLine] = field(default_factory=dict)
    kept: dict[str, BlobRef] = field(default_factory=dict)
    """Of those whose pieces came."""
    contexts: list[ContextLine] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    cells: list[CellRecord] = field(default_factory=list)
    held_bytes: int = 0
    """Of all lines but pieces."""
    is_whole: bool = False


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
    read = _Read()
    await _read_all(rooms, chunks, read, partial(importer.keep_run, target))
    submitted = _checked(read)
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


async def _read_all(
    rooms: RunsRooms, chunks: AsyncIterator[bytes], read: _Read, keep: Callable[[Mapping[str, int]], Awaitable[None]]
) -> None:
    """Lines as they come; the pieces of a blob are counted, then go to disk."""
    lines = _lines(chunks, read)
    async for number, line in lines:
        _take(read, line, number)
        if isinstance(line, BlobLine) and (line.pieces or not line.size_bytes):
            await keep({line.sha256: line.size_bytes})
            read.kept[line.sha256] = await _keep_blob(rooms, line, lines)
    if not read.is_whole:
        raise BadRequest("the export is cut off: its last line is missing")


async def _lines(chunks: AsyncIterator[bytes], read: _Read) -> AsyncIterator[tuple[int, Line]]:
    """The lines with their numbers, from 1; a line is held whole, the file never."""
    rest, size_bytes, number = bytearray(), 0, 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > LARGEST_EXPORT_BYTES:
            raise BadRequest(f"an export may have {LARGEST_EXPORT_BYTES} bytes: store its contexts apart")
        rest += chunk
        if b"\n" not in chunk:
            if len(rest) > MOST_HELD_BYTES:
                raise BadRequest(f"line {number + 1} of the export is longer than {MOST_HELD_BYTES} bytes")
            continue
        *whole, last = rest.split(b"\n")
        rest = bytearray(last)
        for text in whole:
            number += 1
            line = await read_line(bytes(text), number)
            read.held_bytes += 0 if isinstance(line, PieceLine) else len(text)
            if read.held_bytes > MOST_HELD_BYTES:
                raise BadRequest(f"an export may have {MOST_HELD_BYTES} bytes besides its payloads")
            yield number, line
    if rest.strip():
        yield number + 1, await read_line(bytes(rest), number + 1)


def _take(read: _Read, line: Line, number: int) -> None:
    """Note what the line says, if it may stand here."""
    if isinstance(line, ExportLine) is not (number == 1):
        raise BadRequest(f"line {number}: an export begins with what it is, and says so once")
    if read.is_whole:
        raise BadRequest(f"line {number} of the export stands behind its end")
    match line:
        case ExportLine():
            read.header = line
        case BlobLine():
            read.blobs[line.sha256] = line
        case ContextLine():
            read.contexts.append(line)
        case EventLine():
            read.events.append(_decoded(line, number))
        case CellLine():
            read.cells.append(line.record)
        case EndLine():
            read.is_whole = True
        case PieceLine():
            raise BadRequest(f"line {number}: a piece of no blob")
    for name, found, most in (
        ("blobs", len(read.blobs), MOST_BLOBS),
        ("contexts", len(read.contexts), MAX_CONTEXTS),
        ("events", len(read.events), MOST_EVENTS),
        ("cells", len(read.cells), MOST_CELLS),
    ):
        if found > most:
            raise BadRequest(f"an export may have {most} {name}")


def _decoded(line: EventLine, number: int) -> Event:
    try:
        event = decode(event_text(line))
    except StoreFailed as error:
        raise BadRequest(f"line {number} of the export: {error}") from None
    if not math.isfinite(event.at):
        raise BadRequest(f"line {number} of the export: a time must be finite")
    if isinstance(event, HostCallAnswered):
        check_recorded(event)
    return event


async def _keep_blob(rooms: RunsRooms, blob: BlobLine, lines: AsyncIterator[tuple[int, Line]]) -> BlobRef:
    with rooms.blobs.writer(blob.size_bytes) as writer:
        for _ in range(blob.pieces):
            number, piece = await anext(lines, (0, None))
            if not isinstance(piece, PieceLine):
                raise BadRequest(f"blob {blob.sha256} of the export is not whole: a piece is missing")
            try:
                data = b64decode(piece.base64, validate=True)
                await rooms.blobs.in_thread(partial(writer.write, data))
            except (binascii.Error, BlobTooLarge, ValueError):
                raise BadRequest(f"line {number} of the export is no piece of blob {blob.sha256}") from None
        # It is kept under what it is; if that is not what was said, nothing comes to refer to it.
        ref = await rooms.blobs.in_thread(lambda: writer.commit(blob.media))
    if (ref.sha256, ref.size_bytes) != (blob.sha256, blob.size_bytes):
        raise BadRequest(f"blob {blob.sha256} of the export has another digest or size than it says")
    return ref


def _checked(read: _Read) -> RunSubmitted:
    """The first event of the run in the file, once all of it is found to be one.

    Raises:
        BadRequest
    """
    header, events = read.header, read.events
    if header is None or not events or not isinstance(events[0], RunSubmitted):
        raise BadRequest("the export holds no run: its first event must be RunSubmitted")
    submitted = events[0]
    kinds = [type(event) for event in events]
    if kinds.count(RunSubmitted) != 1 or kinds.count(RunFinished) != 1 or kinds[-1] is not RunFinished:
        raise BadRequest("the export holds no finished run: it must begin with RunSubmitted and end with RunFinished")
    if submitted.run_id != header.run_id or submitted.is_direct or submitted.code is not None or submitted.depth:
        raise BadRequest("the export holds no run that could be imported: it must be a root run with a loop")
    _check_submitted(submitted, read)
    own = re.compile(rf"{re.escape(submitted.run_id)}\.(t\d{{1,6}}\.b\d{{1,6}}|h\d{{1,6}})")
    cells = [event.result.cell_id for event in events if isinstance(event, CellFinished)]
    cells += [event.key.cell_id for event in events if isinstance(event, HostCallAnswered)]
    cells += [event.origin.cell_id for event in events if isinstance(event, CallFinished) and event.origin is not None]
    cells += [record.cell_id for record in read.cells]
    if not all(own.fullmatch(cell) for cell in cells):
        raise BadRequest("the export names a cell that is not of its run")
    for record in read.cells:
        if record.run_id != submitted.run_id or record.kind not in ("cell", "history"):
            raise BadRequest("the export's log may only have cells and histories of its own run")
        if record.kind == "history":
            _check_kept(_history(record), read)
    for event in events:
        ref = event.blob if isinstance(event, ValueRead) else event.answer if isinstance(event, RunFinished) else None
        if ref is not None:
            _check_kept(ref, read)
    return submitted


def _check_submitted(submitted: RunSubmitted, read: _Read) -> None:
    """As strictly as a submission; what names no more than itself (models, prompts) need not be here."""
    check_request(
        RunRequest(
            question=submitted.question,
            contexts=submitted.bindings,
            root_model=submitted.root_model,
            sub_model=submitted.sub_model,
            limits=submitted.limits,
            answer_schema=submitted.answer_schema,
            tools=submitted.tools,
        )
    )
    names = (submitted.root_model, submitted.sub_model, submitted.prompt.pack)
    if max(map(len, names)) > MAX_NAME_CHARS or len(submitted.prompt.system) > MAX_PROMPT_CHARS:
        raise BadRequest("a model's name, or the prompt, is too long in the export")
    if not (math.isfinite(submitted.deadline_at) and len(submitted.contexts) == len(submitted.bindings)):
        raise BadRequest("the export's first event does not fit itself")
    given = [line.context_id for line in read.contexts]
    if sorted(given) != sorted({binding.context_id for binding in submitted.bindings}):
        raise BadRequest("the export does not have the contexts that its run is about, each once")


def _check_kept(ref: BlobRef, read: _Read) -> None:
    """What the run refers to must be in the file itself, so that nothing else of the tenant's can be named."""
    kept = read.kept.get(ref.sha256)
    if kept is None or kept.size_bytes != ref.size_bytes:
        raise BadRequest(
            f"the export leaves out blob {ref.sha256} ({ref.size_bytes} bytes): export it with a higher limit"
        )


def _history(record: CellRecord) -> BlobRef:
    try:
        return BLOB.validate_json(record.code)
    except ValidationError:
        raise BadRequest("a history in the export's log names no blob") from None


async def _keep_context(rooms: RunsRooms, line: ContextLine, read: _Read, importer: Importer) -> ContextId:
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


async def _keep_session(rooms: RunsRooms, first: RunSubmitted, read: _Read, records: list[CellRecord]) -> None:
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
    await session.records.close(first.session_id, rooms.now())
