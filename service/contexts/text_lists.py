"""A list of texts as CPython holds them in memory, in one file: what a JSON document of nothing but strings becomes.

The format is that of `sandbox_image.protocol.TextListImage`. The standard library only: the process that parses JSON
writes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, TypeGuard

from sandbox_image.protocol import LIST_ENTRY, LIST_ENTRY_ENCODINGS, ImageEncoding
from service.contexts.text_widths import WIDTHS, narrowest

LEAST_MEAN_CHARS = 512
"""Lists of shorter texts are parsed about as fast as they are laid out, and cost more in entries than they spare."""

_ALIGNMENT = 8
_GATHER_BYTES = 1 << 20


def is_list_of_long_texts(value: object) -> TypeGuard[list[str]]:
    """Whether an image of it pays: only strings, and long ones on the whole."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) for item in value)
        and sum(map(len, value)) >= LEAST_MEAN_CHARS * len(value)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedList:
    """A list and where each of its texts will stand; the last offset is the end of the file."""

    texts: Sequence[str]
    encodings: Sequence[ImageEncoding]
    offsets: Sequence[int]

    @property
    def size_bytes(self) -> int:
        return self.offsets[-1]

    def write(self, file: BinaryIO) -> None:
        """Write the file. Blocking."""
        pending = bytearray()
        for piece in self._pieces():
            pending += piece
            if len(pending) >= _GATHER_BYTES:
                file.write(pending)
                pending.clear()
        file.write(pending)

    def _pieces(self) -> Iterator[bytes]:
        for text, encoding, offset in zip(self.texts, self.encodings, self.offsets, strict=False):
            yield LIST_ENTRY.pack(offset, len(text), LIST_ENTRY_ENCODINGS.index(encoding))
        for text, encoding, (start, end) in zip(self.texts, self.encodings, pairwise(self.offsets), strict=True):
            characters = text.encode(encoding, "surrogatepass")
            yield characters
            yield bytes(end - start - len(characters))


def plan_list(texts: Sequence[str]) -> PlannedList:
    """Decide on the file, without making any of it."""
    encodings = [narrowest(text) for text in texts]
    at = LIST_ENTRY.size * len(texts)
    offsets = [at]
    for text, encoding in zip(texts, encodings, strict=True):
        end = at + (len(text) + 1) * WIDTHS[encoding]
        at = -(-end // _ALIGNMENT) * _ALIGNMENT
        offsets.append(at)
    return PlannedList(texts=texts, encodings=encodings, offsets=offsets)
