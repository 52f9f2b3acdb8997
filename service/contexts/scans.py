"""Scans: look at a payload piece by piece as it streams by, refuse what cannot become a context, count the rest."""

import codecs
import re
from dataclasses import dataclass
from typing import Protocol

from sandbox_image.protocol import ImageEncoding
from service.contexts.json_facts import parse
from service.contexts.text_widths import narrowest
from service.contexts.values import ContextUnit, NotInEncoding
from service.errors import BadRequest
from service.loop.values import PREVIEW_CHARS

LARGEST_LINE_BYTES = 64 << 20
"""Of JSON lines: the parser holds the interpreter's lock for one line at a time."""

_BLANK_LINES = re.compile(rb"[ \t\r\n]*\n")
_PREVIEW_BYTES = 4 * PREVIEW_CHARS


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a root LM is shown of the value that the payload becomes."""

    type_name: str
    length: int
    unit: ContextUnit
    preview: str


class Scan(Protocol):
    def feed(self, chunk: bytes) -> None:
        """Look at the next piece. Blocking; raises `BadRequest` at what cannot be used."""
        ...

    def finish(self) -> Facts:
        """Everything has been fed. Raises `BadRequest` if it must not end here."""
        ...


class Preview:
    """The first characters of a payload, remembered while it streams by."""

    def __init__(self) -> None:
        self._head = b""

    def feed(self, chunk: bytes) -> None:
        if len(self._head) < _PREVIEW_BYTES:
            self._head += chunk[: _PREVIEW_BYTES - len(self._head)]

    def text(self) -> str:
        # Ignores what the cut left of a character at the end; the scan itself is strict.
        return self._head.decode("utf-8", "ignore")[:PREVIEW_CHARS]


class TextScan:
    """A text: strictly UTF-8, byte-exact (a byte order mark and CRLF stay), without NUL."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._preview = Preview()
        self._offset = 0
        self._length = 0
        self.encoding: ImageEncoding = "ascii"
        """The narrowest that holds everything fed so far."""

    def feed(self, chunk: bytes) -> None:
        self._preview.feed(chunk)
        nul = chunk.find(0)
        if nul >= 0:
            raise self._binary("a NUL byte", self._offset + nul)
        pending, _ = self._decoder.getstate()
        if not pending and chunk.isascii():
            self._length += len(chunk)
        else:
            try:
                text = self._decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise self._binary("bytes that are not UTF-8", self._offset - len(pending) + error.start) from error
            self._length += len(text)
            self.encoding = narrowest(text, self.encoding)
        self._offset += len(chunk)

    def finish(self) -> Facts:
        pending, _ = self._decoder.getstate()
        if pending:
            raise self._binary("a character that is cut off", self._offset - len(pending))
        return Facts(type_name="str", length=self._length, unit="characters", preview=self._preview.text())

    def _binary(self, what: str, offset: int) -> NotInEncoding:
        return NotInEncoding(
            f"{self._name}: expected text in UTF-8, found {what} at byte {offset}; convert it to UTF-8 first",
            data={"name": self._name, "offset": offset},
        )


class JsonLinesScan:
    """JSON lines: one value of strict JSON a line; blank lines are allowed and do not count."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._preview = Preview()
        self._pieces: list[bytes] = []
        self._pending_bytes = 0
        self._line = 0
        self._length = 0

    def feed(self, chunk: bytes) -> None:
        self._preview.feed(chunk)
        # Line by line, because a list of all lines of a chunk may take thirty times its size.
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            if self._pieces:
                self._look_at(b"".join((*self._pieces, chunk[start:end])))
                self._pieces, self._pending_bytes = [], 0
                start = end + 1
            elif blank := _BLANK_LINES.match(chunk, start):
                self._line += chunk.count(b"\n", start, blank.end())
                start = blank.end()
            else:
                self._look_at(chunk[start:end])
                start = end + 1
        rest = chunk[start:]
        if rest:
            self._pieces.append(rest)
        self._pending_bytes += len(rest)
        if self._pending_bytes > LARGEST_LINE_BYTES:
            raise self._bad(self._line + 1, f"is longer than {LARGEST_LINE_BYTES} bytes")

    def finish(self) -> Facts:
        self._look_at(b"".join(self._pieces))
        return Facts(type_name="list", length=self._length, unit="items", preview=self._preview.text())

    def _look_at(self, line: bytes) -> None:
        self._line += 1
        if not line.strip():
            return
        try:
            parse(line)
        except ValueError as error:
            raise self._bad(self._line, str(error)) from error
        self._length += 1

    def _bad(self, line: int, problem: str) -> BadRequest:
        return BadRequest(
            f"{self._name}: expected one JSON value a line; line {line} {problem}",
            data={"name": self._name, "line": line},
        )
