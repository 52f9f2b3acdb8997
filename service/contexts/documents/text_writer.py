"""The text that a document becomes: written out as it is read, with a mark where a page, sheet or slide begins.

Marks are HTML comments on a line of their own (`<!-- page 3 -->`), which Markdown does not show and a regular
expression finds.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import BinaryIO

BUFFERED_CHARS = 1 << 16

_SPACE = re.compile(r"\s+")
_NEVER_TEXT = {0: "\ufffd"}
"""A context must not hold NUL."""


class Unreadable(Exception):
    """The document cannot be read; the message is a sentence's end for a person, after the document's name."""


class TextWriter:
    """Collects text and writes it out as UTF-8; notes are what a person should know about the conversion."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._pieces: list[str] = []
        self._buffered = 0
        self.has_text = False
        """Whether anything besides marks was written."""
        self.notes: list[str] = []

    def mark(self, what: str) -> None:
        """Say where the text that follows comes from."""
        self._put(f"<!-- {one_line(what).replace('-->', '—>')} -->\n")

    def block(self, text: str) -> None:
        """One paragraph, heading, table or the like; an empty line follows."""
        text = text.strip("\n")
        if text.strip():
            self.has_text = True
            self._put(text + "\n\n")

    def rows(self, rows: Iterable[Sequence[str]]) -> None:
        """A table as lines of CSV, which code can read back. Rows are written as they come."""
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        wrote = False
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            writer.writerow(row)
            self._put(line.getvalue())
            line.seek(0)
            line.truncate()
            wrote = True
        if wrote:
            self.has_text = True
            self._put("\n")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def flush(self) -> None:
        # Half of a surrogate pair, which damaged files contain, cannot be written as UTF-8.
        text = "".join(self._pieces).translate(_NEVER_TEXT)
        self._out.write(text.encode("utf-8", "replace"))
        self._out.flush()
        self._pieces, self._buffered = [], 0

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self._buffered += len(text)
        if self._buffered >= BUFFERED_CHARS:
            self.flush()


def one_line(text: str) -> str:
    """For table cells and headings."""
    return _SPACE.sub(" ", text).strip()
