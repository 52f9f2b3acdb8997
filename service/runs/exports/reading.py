"""Reading an export: line by line, payloads to disk, everything else held and bounded."""

import binascii
import codecs
import math
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from service.errors import BadRequest
from service.journal.codec import decode
from service.journal.values import CellRecord
from service.loop.events import (
    Event,
    HostCallAnswered,
)
from service.loop.values import BlobRef
from service.runs.exports.lines import (
    MOST_HELD_BYTES,
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
from service.runs.host_calls.values import check_recorded
from service.runs.rooms import RunsRooms
from service.runs.submission.first_event import MAX_CONTEXTS
from service.store.errors import BlobTooLarge, StoreFailed

LARGEST_EXPORT_BYTES = 1 << 30
MOST_EVENTS = 20_000
MOST_CELLS = 20_000
MOST_BLOBS = 20_000


@dataclass(slots=True)
class ReadExport:
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


async def read_all(
    rooms: RunsRooms,
    chunks: AsyncIterator[bytes],
    read: ReadExport,
    keep: Callable[[Mapping[str, int]], Awaitable[None]],
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


async def _lines(chunks: AsyncIterator[bytes], read: ReadExport) -> AsyncIterator[tuple[int, Line]]:
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
            said = bytes(text).removeprefix(codecs.BOM_UTF8 if number == 1 else b"").strip()
            if not said:
                continue
            line = await read_line(said, number)
            read.held_bytes += 0 if isinstance(line, PieceLine) else len(text)
            if read.held_bytes > MOST_HELD_BYTES:
                raise BadRequest(f"an export may have {MOST_HELD_BYTES} bytes besides its payloads")
            yield number, line
    if rest.strip():
        try:
            last_line = await read_line(bytes(rest), number + 1)
        except BadRequest:
            raise BadRequest(f"the export is cut off in line {number + 1}: get it once more") from None
        yield number + 1, last_line


def _take(read: ReadExport, line: Line, number: int) -> None:
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
