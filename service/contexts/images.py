"""Images: stored texts once more, as CPython holds them in memory, so that sandboxes map instead of decode them.

CPython holds a text in the narrowest of four encodings that has room for all its characters: ASCII, Latin-1, UTF-16,
UTF-32. The original is UTF-8. For ASCII the two are the same bytes, so the original is the image, at no cost.
Otherwise the image is a second blob of one, two or four bytes a character.

Which texts get one:
- From `LEAST_MAPPED_BYTES`, what is ASCII; smaller texts are decoded sooner than mapped. The most parts of
  the largest such size are 10,000 * 64 KiB = 640 MB, which fits into a sandbox of default size beside its work.
- From `LEAST_WRITTEN_BYTES`, all others: forcing a second file to disk takes longer than decoding a smaller one.
- To `LARGEST_IMAGE_BYTES`, since one emoji makes four bytes of every character: this still has room for 1 GiB of text
  with an emoji. Such a text cannot be decoded in a sandbox of default size instead: there it would take the same
  four gigabytes, but of private memory and once per session.

A JSON document that is a list of nothing but long strings becomes a `list[str]`, and all its texts stand in one image
(`text_lists`), written by the process that parses the document. Smaller documents than those it parses get none.

Not a copy for safety: the original is the truth, and an image can be made from it at any time.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter

from sandbox_image.protocol import ImageEncoding
from service.contexts.text_widths import WIDTHS
from service.contexts.values import TextImage
from service.loop.values import BlobRef
from service.store.blobs import Blobs, BlobWriter
from service.store.connection import Store
from service.store.errors import StoreFailed
from service.store.keys import Keys

LEAST_MAPPED_BYTES = 64 << 10
LEAST_WRITTEN_BYTES = 1 << 20
LARGEST_IMAGE_BYTES = 4 << 30
READ_BYTES = 1 << 20
"""Decoding holds the interpreter's lock for about a millisecond per piece."""
READS_AT_ONCE = 8
FORGOTTEN_AT_ONCE = 500

_IMAGE = TypeAdapter(TextImage)
_MEMORY = ("contexts", "images")


def is_imaged(size_bytes: int, length: int, encoding: ImageEncoding) -> bool:
    """Whether a text of so many bytes and characters gets an image."""
    if encoding == "ascii":
        return size_bytes >= LEAST_MAPPED_BYTES
    return size_bytes >= LEAST_WRITTEN_BYTES and length * WIDTHS[encoding] <= LARGEST_IMAGE_BYTES


def is_memory_of_images(name: str) -> bool:
    """Whether the key of this name (behind its tenant's tag) only remembers images (`store.blob_references`)."""
    return name == ":".join(_MEMORY)


def image_bytes(image: TextImage) -> int:
    """The size of an image that is not its original."""
    return image.length * WIDTHS[image.encoding]


class Images:
    """The images of one tenant's texts.

    The key `contexts:images` maps an original's digest to its image, so that a text stored again is not written
    again. It only remembers: what keeps an image are the contexts that have it.
    """

    def __init__(self, store: Store, blobs: Blobs, keys: Keys) -> None:
        self._store = store
        self._blobs = blobs
        self._key = keys(*_MEMORY)

    async def of(self, original: BlobRef, length: int, encoding: ImageEncoding) -> TextImage | None:
        """The image of a stored text, made if there is none yet; None where it gets none.

        Cancelling it keeps nothing. Raises `StoreFailed` where it cannot be written.
        """
        if not is_imaged(original.size_bytes, length, encoding):
            return None
        if encoding == "ascii":
            return TextImage(sha256=original.sha256, encoding=encoding, length=length)
        if (known := await self._known(original)) is not None:
            return known
        image = TextImage(sha256=await self._written(original, length, encoding), encoding=encoding, length=length)
        await self._store.leave(("HSET", self._key, original.sha256, _IMAGE.dump_json(image)))
        return image

    async def _known(self, original: BlobRef) -> TextImage | None:
        found = await self._store.read("HGET", self._key, original.sha256)
        if not isinstance(found, bytes):
            return None
        image = _IMAGE.validate_json(found)
        missing = await self._blobs.touch([(image.sha256, image_bytes(image))])
        return None if missing else image

    async def mend(self, original: BlobRef, image: TextImage) -> None:
        """Write an image anew that is missing.

        Raises:
            StoreFailed: it cannot be written, or the text is no longer the one that was stored.
        """
        if await self._written(original, image.length, image.encoding) != image.sha256:
            raise _damaged(original)

    async def forget(self, digests: Sequence[str]) -> None:
        """Remember no image of these originals, and none that is one of these. Idempotent."""
        gone = set(digests)
        cursor = b"0"
        while True:
            match await self._store.read("HSCAN", self._key, cursor, "COUNT", FORGOTTEN_AT_ONCE):
                case [bytes(following), list(flat)]:
                    pairs = [each for each in flat if isinstance(each, bytes)]
                case _:
                    raise AssertionError("HSCAN answers with a cursor, fields and values")
            found = [
                original
                for original, image in zip(pairs[::2], pairs[1::2], strict=True)
                if original.decode() in gone or _IMAGE.validate_json(image).sha256 in gone
            ]
            if found:
                await self._store.write("HDEL", self._key, *found)
            cursor = following
            if cursor == b"0":
                return

    async def _written(self, original: BlobRef, length: int, encoding: ImageEncoding) -> str:
        with self._blobs.writer() as writer:
            source = await self._blobs.in_thread(lambda: _open(self._blobs.path(original.sha256)))
            try:
                copying = _Copying(source, writer, encoding)
                while await self._blobs.in_thread(copying.some):
                    pass
            except UnicodeError as error:
                raise _damaged(original) from error
            finally:
                source.close()
            if writer.size_bytes != length * WIDTHS[encoding]:
                raise _damaged(original)
            return (await self._blobs.in_thread(lambda: writer.commit("text"))).sha256


class _Copying:
    """A text on its way from UTF-8 to its image, a few pieces at a time."""

    def __init__(self, source: BinaryIO, writer: BlobWriter, encoding: ImageEncoding) -> None:
        self._source = source
        self._writer = writer
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def some(self) -> bool:
        """Whether there may be more. Blocking."""
        for _ in range(READS_AT_ONCE):
            piece = self._source.read(READ_BYTES)
            self._writer.write(self._decoder.decode(piece, final=not piece).encode(self._encoding))
            if not piece:
                return False
        return True


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _damaged(original: BlobRef) -> StoreFailed:
    return StoreFailed(f"blob {original.sha256} is no longer the text that was stored; restore it")
