"""Bodies: a record's bytes stand in the store when small, and as a blob with a reference in the store when not."""

import re
from collections.abc import Sequence

import anyio

from service.errors import RlmServiceError
from service.loop.values import BlobRef
from service.store.blobs import Blobs
from service.store.errors import StoreFailed

INLINE_BYTES = 16_384
LARGEST_BODY_BYTES = 1 << 30

_INLINE = b"="
_BY_REFERENCE = b"@"
_REFERENCE = re.compile(rb"@([0-9a-f]{64}):([0-9]{1,19})")


class Bodies:
    """Packs bodies into values of the store and unpacks them again."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def pack(self, body: bytes) -> bytes:
        """What to write into the store. The blob, if one is needed, is on disk when this returns."""
        if len(body) <= INLINE_BYTES:
            return _INLINE + body
        ref = await self._blobs.put(body, "json")
        return _BY_REFERENCE + f"{ref.sha256}:{ref.size_bytes}".encode()

    async def pack_many(self, bodies: Sequence[bytes]) -> list[bytes]:
        """The same for several, whose blobs are forced to disk side by side."""
        if all(len(body) <= INLINE_BYTES for body in bodies):
            return [_INLINE + body for body in bodies]
        packed = [b""] * len(bodies)
        failures: list[RlmServiceError] = []

        async def pack(place: int) -> None:
            try:
                packed[place] = await self.pack(bodies[place])
            except RlmServiceError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            for place in range(len(bodies)):
                group.start_soon(pack, place)
        if failures:
            raise failures[0]
        return packed

    async def unpack(self, value: bytes) -> bytes:
        """The body behind a value of the store.

        Raises:
            BlobMissing: its blob is gone.
            StoreFailed: the value is not one that `pack` made.
        """
        kind, rest = value[:1], value[1:]
        if kind == _INLINE:
            return rest
        ref = reference_in(value)
        if ref is not None:
            return await self._blobs.read(ref, LARGEST_BODY_BYTES)
        raise StoreFailed("a record in the store has an unknown form; was it written by a newer version?")


def reference_in(value: bytes) -> BlobRef | None:
    """The blob behind a packed body; None for one that stands in the value itself, and for no body at all."""
    found = _REFERENCE.fullmatch(value)
    return None if found is None else BlobRef(sha256=found[1].decode(), size_bytes=int(found[2]), media="json")
