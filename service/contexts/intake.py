"""Intake: a payload is led past a scan into a blob, a few pieces at a time and never whole in memory."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from service.contexts.documents.conversion import Document
from service.contexts.encodings import Recoded
from service.contexts.images import LEAST_MAPPED_BYTES, Images
from service.contexts.scans import Facts, Preview, Scan, TextScan
from service.contexts.values import Part
from service.errors import BadRequest
from service.loop.values import BlobRef
from service.store.blob_batches import BlobBatch
from service.store.blobs import Blobs, BlobWriter, Media, gather

LONGEST_NAME = 1000
READ_BYTES = 4 << 20
READS_AT_ONCE = 8
"""Reads between two looks at whether the caller has given up."""

Payload = Path | AsyncIterator[bytes] | Document | Recoded
"""Bytes as they are, in a file or as they come; or what becomes UTF-8 text only while it is taken in."""


class Intake:
    """Of one tenant."""

    def __init__(self, blobs: Blobs, images: Images) -> None:
        self._blobs = blobs
        self._images = images

    async def part_of_many(self, name: str, payload: Payload, batch: BlobBatch) -> tuple[Part, Facts]:
        """A small file waits in the batch, with one look and in one thread; whatever else is kept at once."""
        if isinstance(payload, Path):

            def take() -> tuple[Part, Facts] | None:
                data = _read_small(payload, name)
                if data is None:
                    return None
                scan = TextScan(name)
                scan.feed(data)
                facts = scan.finish()
                return part_of(name, batch.add(data)), facts

            taken = await self._blobs.in_thread(take)
            if taken is not None:
                return taken
        return await self.text(name, payload, may_be_empty=True)

    async def text(self, name: str, payload: Payload, *, may_be_empty: bool = False) -> tuple[Part, Facts]:
        """Keep a text, with an image where it is large. Raises `BadRequest` for what is none."""
        scan = TextScan(name)
        ref, facts = await self.scanned(name, payload, scan, "text", may_be_empty=may_be_empty)
        image = await self._images.of(ref, facts.length, scan.encoding)
        return Part(name=name, sha256=ref.sha256, size_bytes=ref.size_bytes, image=image), facts

    async def scanned(
        self, name: str, payload: Payload, scan: Scan, media: Media, *, may_be_empty: bool = False
    ) -> tuple[BlobRef, Facts]:
        """Keep what the scan lets pass. Raises `BadRequest`."""
        with self._blobs.writer() as writer:
            await self.pour(name, payload, writer, scan)
            facts = await self._blobs.in_thread(scan.finish)
            if facts.length == 0 and not may_be_empty:
                raise empty(name)
            return await self._blobs.in_thread(lambda: writer.commit(media)), facts

    async def pour(self, name: str, payload: Payload, writer: BlobWriter, scan: Scan | Preview) -> None:
        """Lead the payload past the scan into the blob, a few pieces at a time."""
        check_name(name)

        def take(chunk: bytes) -> None:
            scan.feed(chunk)
            writer.write(chunk)

        if isinstance(payload, Path):
            file = await self._blobs.in_thread(lambda: _open(payload, name))
            try:
                while await self._blobs.in_thread(lambda: _take_some(file, take)):
                    pass
            finally:
                file.close()
        elif isinstance(payload, Document | Recoded):
            async with payload.opened(name) as chunks:
                await self.pour(name, chunks, writer, scan)
        else:
            async for gathered in gather(payload):
                await self._blobs.in_thread(partial(take, gathered))


def part_of(name: str, ref: BlobRef) -> Part:
    return Part(name=name, sha256=ref.sha256, size_bytes=ref.size_bytes)


def check_name(name: str) -> None:
    """Raises `BadRequest` for what cannot name a context or a part."""
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise BadRequest(f"a context's or part's name must be 1 to {LONGEST_NAME} printable characters")


def empty(name: str) -> BadRequest:
    return BadRequest(f"{name}: expected some content, found none; a context must not be empty")


def _take_some(file: BinaryIO, take: Callable[[bytes], None]) -> bool:
    """Lead some of the file past; whether there may be more."""
    for _ in range(READS_AT_ONCE):
        chunk = file.read(READ_BYTES)
        if not chunk:
            return False
        take(chunk)
    return True


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadRequest(f"{name}: expected a file that can be read, found none ({error.strerror})") from error


def _read_small(path: Path, name: str) -> bytes | None:
    """The whole of a file that is too small for an image; None for a larger one."""
    with _open(path, name) as file:
        data = file.read(LEAST_MAPPED_BYTES)
    return data if len(data) < LEAST_MAPPED_BYTES else None
