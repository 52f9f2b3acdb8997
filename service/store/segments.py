"""Segments: the older part of a long stream, moved out of the store's memory into blobs.

A stream here has entries numbered from 1 without gaps, with one field each. Beside it stands a list, `…:sealed`, with a
line for each segment: `<first> <last> @<sha256>:<bytes>`. A segment is a blob with one value a line. The newest entry
stays in the stream, so that a stream which is there is never empty, and a reader who finds a gap at its beginning knows
where to look.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.loop.values import BlobRef
from service.store.blobs import Blobs
from service.store.bodies import reference_in
from service.store.connection import Part, Reply, Store
from service.store.errors import StoreFailed
from service.store.fences import Fence
from service.store.scripts import load_fenced_script

LARGEST_SEGMENT_BYTES = 64 << 20
SEALED_WITHIN_S = 600
"""Of when a segment began to be put: much less than what nothing refers to is kept."""
SEALED = ":sealed"

_SEAL = load_fenced_script("service.store", "seal.lua")
_LINE = re.compile(rb"([0-9]{1,15}) ([0-9]{1,15}) (@[0-9a-f]{64}:[0-9]{1,19})")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSizes:
    """How much of a stream stands where."""

    open_bytes: int = 8 << 20
    """Values in the store itself; what is beyond is sealed."""
    most_open_bytes: int = 32 << 20
    """Of a stream that cannot be sealed: then it stops growing."""
    segment_bytes: int = 512 << 10
    """About as much is moved at once. Whoever reads some entries of a segment reads it whole."""
    entries_at_once: int = 100
    """That are read to be moved."""


STREAM_SIZES = StreamSizes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Which entries stand in which blob."""

    first: int
    last: int
    ref: BlobRef

    def line(self) -> bytes:
        return f"{self.first} {self.last} @{self.ref.sha256}:{self.ref.size_bytes}".encode()


class SealedStream:
    """One stream, whose segments are read and made."""

    def __init__(self, store: Store, blobs: Blobs, stream: str, sizes: StreamSizes = STREAM_SIZES) -> None:
        self._store = store
        self._sizes = sizes
        self._blobs = blobs
        self._stream = stream
        self._sealed = sealed_key(stream)

    async def seal_oldest(self, counter: str, within: Fence) -> int:
        """Move about `segment_bytes` of the oldest entries into a segment, but not the newest entry; how many bytes, 0
        when there was nothing to move or the fence does not stand. `counter` is the hash whose field `open_bytes` says
        how much stands in the stream. Safe to repeat, and beside readers and writers. One that was held up for so long
        that its segment, which nothing refers to yet, may have been collected meanwhile moves nothing.

        Raises:
            StoreFailed: nothing was moved, or it is unknown whether it was.
        """
        entries = await self._oldest()
        if not entries:
            return 0
        values = [value for _, value in entries]
        put_at = await self._store.now()
        ref = await self._blobs.put(b"\n".join(values), "json")
        segment = Segment(first=entries[0][0], last=entries[-1][0], ref=ref)
        keys = [self._stream, self._sealed, counter]
        size_bytes = sum(map(len, values))
        arguments: list[Part] = [str(segment.first), str(segment.last), segment.line(), str(size_bytes), repr(put_at)]
        arguments.append(str(SEALED_WITHIN_S))
        reply = await self._store.run(_SEAL, keys, arguments, is_idempotent=True, fence=within)
        return size_bytes if reply == b"sealed" else 0

    async def values(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` sealed entries behind `after`, with their numbers; none when that one is not sealed.

        Raises:
            BlobMissing: a segment is gone.
        """
        lines = await self._store.read("LRANGE", self._sealed, 0, -1)
        assert isinstance(lines, list)
        found: list[tuple[int, bytes]] = []
        for line in lines:
            segment = segment_in(line)
            if segment is None or segment.last <= after or len(found) >= limit:
                continue
            content = await self._blobs.read(segment.ref, LARGEST_SEGMENT_BYTES)
            values = values_of(content)
            if len(values) != segment.last - segment.first + 1:
                raise StoreFailed(f"segment {segment.ref.sha256} does not hold what it should; restore it")
            numbered = enumerate(values, segment.first)
            found += [(number, value) for number, value in numbered if number > after][: limit - len(found)]
        return found

    async def _oldest(self) -> list[tuple[int, bytes]]:
        entries: list[tuple[int, bytes]] = []
        size_bytes, at_once = 0, self._sizes.entries_at_once
        while size_bytes < self._sizes.segment_bytes:
            start = f"({entries[-1][0]}-0" if entries else "-"
            page = entries_in(await self._store.read("XRANGE", self._stream, start, "+", "COUNT", at_once))
            entries += page
            size_bytes += sum(len(value) for _, value in page)
            if len(page) < at_once:
                return entries[:-1]
        return entries[:-1]


def entries_in(reply: Reply) -> list[tuple[int, bytes]]:
    """Number and value of entries, as XRANGE replies them."""
    assert isinstance(reply, list)
    found: list[tuple[int, bytes]] = []
    for entry in reply:
        match entry:
            case [bytes(entry_id), [_, bytes(value)]]:
                found.append((int(entry_id.partition(b"-")[0]), value))
            case _:
                raise AssertionError("an entry of a stream has one field here")
    return found


def segment_in(line: Reply) -> Segment | None:
    """The segment that a line of the list names; None for any other value."""
    parts = _LINE.fullmatch(line) if isinstance(line, bytes) else None
    ref = reference_in(parts[3]) if parts is not None else None
    if parts is None or ref is None:
        return None
    return Segment(first=int(parts[1]), last=int(parts[2]), ref=ref)


def sealed_key(stream: str) -> str:
    """Where the segments of a stream are listed."""
    return stream + SEALED


def values_of(content: bytes) -> Sequence[bytes]:
    """The values of a segment."""
    return content.split(b"\n")
