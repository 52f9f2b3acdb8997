"""References: which payloads something in the store still names, found without knowing what the keys mean.

Whatever looks like the digest of a suspect counts as a reference to it, in the name of a key or anywhere in its value,
and in bodies (`bodies`) and segments (`segments`) that stand as blobs
themselves. So a room that begins to keep references somewhere else has
nothing to tell anybody; the price is that a text which happens to hold a digest keeps that payload.

Keys that only remember payloads, and may be lost with them, are *weak*: what stands there counts for nothing.

A reference that moves from a key that is yet to be read to one that was read already, and is then deleted where it was,
escapes a scan. Moves are rare and quick (a fork copies a run that is being forgotten), so whoever removes payloads asks
two scans that lie apart.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio

from service.ids import TenantId
from service.loop.values import BlobRef
from service.store.blobs import Blobs
from service.store.bodies import reference_in
from service.store.connection import Command, Reply, Store
from service.store.errors import BlobMissing
from service.store.key_scans import pages_of_keys
from service.store.segments import LARGEST_SEGMENT_BYTES, SEALED, Segment, segment_in, values_of

VALUES_AT_ONCE = 50
"""Keys that are read in one round trip, and items of a large one: at most some megabyte at a time."""
READ_BYTES = 1 << 20
DIGEST_CHARS = 64
MOST_REMEMBERED = 100_000
"""Bodies of which is known what they name."""
MOST_NAMED = 32
"""Digests in one body that is remembered; those with more are read again each time."""
MOST_NAMED_BY_SEGMENTS = 200_000
"""Digests and bodies in all segments that are remembered; further segments are read again each time."""

_HEXADECIMAL = re.compile(rb"[0-9a-f]{64,}")
_KEY = re.compile(rb"rlm:\{([A-Za-z0-9_-]{1,64})\}:(.*)", re.DOTALL)
_PAGED: dict[bytes, str] = {b"hash": "HSCAN", b"set": "SSCAN", b"zset": "ZSCAN"}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """Payloads of one tenant for which no reference was found so far."""

    blobs: Blobs
    digests: set[bytes]
    """As 32 bytes each. What is referenced is struck out."""


class References:
    """Strikes out what is referenced. It remembers what bodies and segments name, because these never change."""

    def __init__(self, store: Store, is_weak: Callable[[str], bool]) -> None:
        """`is_weak` is asked with the name of a key behind its tenant's tag."""
        self._store = store
        self._is_weak = is_weak
        self._bodies = _NamedByBodies()
        self._segments = _NamedBySegments()
        self._pace = _Pace()

    async def strike_out(self, suspects: Mapping[TenantId, Suspects]) -> None:
        """Take what is referenced out of the suspects. It reads every key of these tenants, a little at a time, and
        rests after each little as long as that took, so that it is in nobody's way.

        Raises:
            StoreFailed: some may be referenced that are suspects still.
        """
        self._pace.begin()
        async with aclosing(pages_of_keys(self._store, "rlm:{*")) as pages:
            async for names in pages:
                for tenant, keys in self._of_tenants(names, suspects).items():
                    await self._strike_out_of(suspects[tenant], keys)
                await self._pace.rest()

    def _of_tenants(
        self, names: Iterable[bytes], suspects: Mapping[TenantId, Suspects]
    ) -> Mapping[TenantId, list[bytes]]:
        found: dict[TenantId, list[bytes]] = {}
        for name in names:
            parts = _KEY.fullmatch(name)
            if parts is None:
                continue
            tenant = TenantId(parts[1].decode())
            if tenant in suspects and not self._is_weak(parts[2].decode(errors="replace")):
                found.setdefault(tenant, []).append(name)
        return found

    async def _strike_out_of(self, suspects: Suspects, keys: list[bytes]) -> None:
        if not suspects.digests:
            return
        for name in keys:
            suspects.digests.difference_update(digests_in(name))
        for some in _by(VALUES_AT_ONCE, keys):
            kinds = await self._store.read_many([("TYPE", name) for name in some])
            commands = [(name, kind, _first_read(name, kind)) for name, kind in zip(some, kinds, strict=True)]
            asked = [(name, kind, command) for name, kind, command in commands if command is not None]
            replies = await self._store.read_many([command for _, _, command in asked]) if asked else []
            for (name, kind, _), reply in zip(asked, replies, strict=True):
                is_sealed = name.endswith(SEALED.encode())
                await self._take(suspects, reply, is_sealed=is_sealed)
                async with aclosing(self._rest_of(name, kind, reply)) as more:
                    async for page in more:
                        await self._take(suspects, page, is_sealed=is_sealed)
                        await self._pace.rest()

    async def _rest_of(self, name: bytes, kind: Reply, first: Reply) -> AsyncGenerator[Reply, None]:
        """What the first read of a key left out, a page at a time."""
        place, page = 0, first
        while (following := _next_read(name, kind, page, place)) is not None:
            place += VALUES_AT_ONCE
            page = await self._store.read(*following)
            yield page

    async def _take(self, suspects: Suspects, reply: Reply, *, is_sealed: bool = False) -> None:
        for value in _leaves(reply):
            suspects.digests.difference_update(digests_in(value))
            ref = reference_in(value)
            if ref is not None:
                suspects.digests.difference_update(await self._bodies.of(ref, suspects))
            segment = segment_in(value) if is_sealed else None
            if segment is not None:
                await self._take_segment(suspects, segment)

    async def _take_segment(self, suspects: Suspects, segment: Segment) -> None:
        """What was a stream counts as if it were one still."""
        named = await self._segments.of(segment, suspects.blobs)
        suspects.digests.difference_update(named.digests)
        for ref in named.bodies:
            suspects.digests.difference_update(await self._bodies.of(ref, suspects))
        await self._pace.rest()


class _Pace:
    """Of one who rests as long as he works."""

    def __init__(self) -> None:
        self._since = 0.0

    def begin(self) -> None:
        """From now on it is work."""
        self._since = anyio.current_time()

    async def rest(self) -> None:
        """As long as the work since the last rest took."""
        await anyio.sleep(anyio.current_time() - self._since)
        self.begin()


class _NamedByBodies:
    """What bodies name: asked of the disk once for most of them."""

    def __init__(self) -> None:
        self._known: dict[Path, frozenset[bytes]] = {}

    async def of(self, ref: BlobRef, suspects: Suspects) -> frozenset[bytes]:
        """The digests in a body; of one that names many, those that are suspects. Of one that is gone nothing is known,
        and nothing remembered: whoever wants to read it is told so, and it may be stored again."""
        path = suspects.blobs.path(ref.sha256)
        known = self._known.get(path)
        if known is not None:
            return known
        found = await suspects.blobs.in_thread(lambda: _digests_of_file(path, suspects.digests))
        if found is None:
            return frozenset()
        named, is_all = found
        if is_all and len(self._known) < MOST_REMEMBERED:
            self._known[path] = named
        return named


@dataclass(frozen=True, slots=True, kw_only=True)
class _NamedBySegment:
    digests: frozenset[bytes] = frozenset()
    bodies: tuple[BlobRef, ...] = ()
    """Values that stand as blobs, and name more."""


class _NamedBySegments:
    """What segments name: asked of the disk once for most of them."""

    def __init__(self) -> None:
        self._known: dict[Path, _NamedBySegment] = {}
        self._room = MOST_NAMED_BY_SEGMENTS

    async def of(self, segment: Segment, blobs: Blobs) -> _NamedBySegment:
        """Of one that is gone nothing is known: whoever wants to read it is told so."""
        path = blobs.path(segment.ref.sha256)
        known = self._known.get(path)
        if known is not None:
            return known
        try:
            content = await blobs.read(segment.ref, LARGEST_SEGMENT_BYTES)
        except BlobMissing:
            return _NamedBySegment()
        named = await blobs.in_thread(lambda: _named_in_segment(content))
        taken = 1 + len(named.digests) + len(named.bodies)
        if taken <= self._room:
            self._room -= taken
            self._known[path] = named
        return named


def _named_in_segment(content: bytes) -> _NamedBySegment:
    values = values_of(content)
    digests = frozenset(digest for value in values for digest in digests_in(value))
    return _NamedBySegment(digests=digests, bodies=tuple(ref for ref in map(reference_in, values) if ref is not None))


def digests_in(value: bytes) -> Iterator[bytes]:
    """What can be a digest in there, as 32 bytes. Of a longer run of hexadecimal digits these are the first 64 and the
    last: somebody who stores nothing but such digits must not keep us busy."""
    for found in _HEXADECIMAL.finditer(value):
        text = found[0].decode()
        yield bytes.fromhex(text[:DIGEST_CHARS])
        if len(text) > DIGEST_CHARS:
            yield bytes.fromhex(text[-DIGEST_CHARS:])


def _digests_of_file(path: Path, suspects: AbstractSet[bytes]) -> tuple[frozenset[bytes], bool] | None:
    """Those in a file, and whether they are all; if not, they are those that are suspects. None when there is no such
    file. Blocks."""
    few: set[bytes] = set()
    suspected: set[bytes] = set()
    rest = b""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        while piece := file.read(READ_BYTES):
            text = rest + piece
            for digest in digests_in(text):
                if len(few) <= MOST_NAMED:
                    few.add(digest)
                if digest in suspects:
                    suspected.add(digest)
            rest = text[-(DIGEST_CHARS - 1) :]
    is_all = len(few) <= MOST_NAMED
    return frozenset(few if is_all else suspected), is_all


def _first_read(name: bytes, kind: Reply) -> Command | None:
    """What reads a small key whole, and a large one's beginning; None for one that has gone."""
    match kind:
        case b"string":
            return ("GET", name)
        case b"hash" | b"set" | b"zset":
            return (_PAGED[kind], name, "0", "COUNT", VALUES_AT_ONCE)
        case b"list":
            return ("LRANGE", name, 0, VALUES_AT_ONCE - 1)
        case b"stream":
            return ("XRANGE", name, "-", "+", "COUNT", VALUES_AT_ONCE)
        case _:
            return None


def _next_read(name: bytes, kind: Reply, page: Reply, place: int) -> Command | None:
    """What reads on behind a page that begins at `place`; None when that was the last."""
    match kind, page:
        case ((b"hash" | b"set" | b"zset"), [bytes(cursor), _]):
            return None if cursor == b"0" else (_PAGED[kind], name, cursor, "COUNT", VALUES_AT_ONCE)
        case _, list(items) if len(items) < VALUES_AT_ONCE:
            return None
        case b"list", _:
            return ("LRANGE", name, place + VALUES_AT_ONCE, place + 2 * VALUES_AT_ONCE - 1)
        case b"stream", [*_, [bytes(last), *_]]:
            return ("XRANGE", name, b"(" + last, "+", "COUNT", VALUES_AT_ONCE)
        case _:
            return None


def _leaves(reply: Reply) -> Iterator[bytes]:
    """Every string in a reply, fields and cursors included."""
    if isinstance(reply, bytes):
        yield reply
    elif isinstance(reply, list):
        for each in reply:
            yield from _leaves(each)


def _by(size: int, items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
