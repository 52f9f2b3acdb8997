"""HTML: what a reader of the page would read, as Markdown. Scripts, styles and markup are gone; links stay.

Tags are followed as they come, without a tree of them, so nesting costs nothing and a page of any size is read
in one pass.
"""

import codecs
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO

from service.contexts.documents.text_writer import TextWriter, Unreadable, one_line

READ_BYTES = 1 << 16
LONGEST_BLOCK = 1 << 20
ROWS_AT_ONCE = 1000
LONGEST_TAG = 16 << 20
"""Pictures are embedded in tags."""
LONGEST_UNFINISHED_TAG = 1 << 16
"""At the end of a page. What the parser makes of it takes time by the square of its length."""

_PREFIXES = {f"h{level}": "#" * level + " " for level in range(1, 7)} | {"li": "- ", "title": "# "}
_UNSEEN = {"script", "style", "template", "svg"}
_BLOCKS = {
    *_PREFIXES,
    *("address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset"),
    *("figcaption", "figure", "footer", "form", "header", "hr", "legend", "main", "nav", "ol", "p", "pre", "section"),
    *("summary", "ul"),
}
_SPACE = re.compile(r"\s+")
_LINE_ENDS = "\r\n"
_META = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_META_WITHIN = 4096
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DEFAULT = "windows-1252"
"""What browsers assume of a page that is not UTF-8 and says nothing."""


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:
    name = encoding or _encoding_of(document)
    document.seek(0)
    decoder = codecs.getincrementaldecoder(name)("replace")
    parser = _Page(text)
    # What the parser keeps is looked through again with each piece: pieces that grow with it make that linear.
    while chunk := document.read(max(READ_BYTES, len(parser.rawdata))):
        parser.feed(decoder.decode(chunk))
        if parser.is_within_a_tag_of(LONGEST_TAG):
            raise Unreadable(f"has a tag of more than {LONGEST_TAG:,} characters: it is damaged, or no HTML")
    parser.feed(decoder.decode(b"", final=True))
    parser.finish()
    if name not in ("utf-8", "utf-8-sig"):
        text.note(f"its bytes read as {name}")


def add_html(page: str, text: TextWriter) -> None:
    """The text of a page that is a string already."""
    parser = _Page(text)
    parser.feed(page)
    parser.finish()


def _encoding_of(document: BinaryIO) -> str:
    head = document.read(_META_WITHIN)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    said = _META.search(head)
    if said is not None:
        try:
            # A page whose meta element could be read as ASCII is not UTF-16, whatever it says.
            name = codecs.lookup(said[1].decode("ascii")).name
            return "utf-8" if name.startswith("utf-16") else name
        except (LookupError, UnicodeDecodeError):
            pass
    document.seek(0)
    return "utf-8" if _is_utf8(document) else _DEFAULT


def _is_utf8(document: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in _chunks(document):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _chunks(document: BinaryIO) -> Iterator[bytes]:
    while chunk := document.read(READ_BYTES):
        yield chunk


class _Page(HTMLParser):
    """Collects inline text until a block, a cell or a row ends."""

    def __init__(self, text: TextWriter) -> None:
        super().__init__(convert_charrefs=True)
        self._text = text
        self._pieces: list[str] = []
        self._size = 0
        self._prefix = ""
        self._unseen = 0
        """How many elements are open around us that no reader sees."""
        self._is_preformatted = False
        self._link = ""
        self._rows: list[list[str]] = []
        self._row: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif self._unseen:
            return
        elif tag == "br":
            self._add("\n")
        elif tag == "a":
            self._link = dict(attrs).get("href") or ""
        elif tag == "img":
            self._add(dict(attrs).get("alt") or "")
        elif tag == "tr":
            self._end_row()
            self._row = []
        elif tag in ("td", "th"):
            self._end_cell()
            if self._row is None:
                self._row = []
        elif tag == "table":
            self.end_block()
        elif tag in _BLOCKS:
            self._start_block(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(self._unseen - 1, 0)
        elif self._unseen:
            return
        elif tag == "a":
            if self._link.startswith(("http://", "https://", "mailto:")):
                self._add(f" ({self._link})")
            self._link = ""
        elif tag in ("td", "th"):
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag == "table":
            self.end_block()
        elif tag in _BLOCKS:
            self._start_block("")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._add(data if self._is_preformatted else _SPACE.sub(" ", data))

    def is_within_a_tag_of(self, length: int) -> bool:
        """Whether it keeps more than so many characters that began with a tag, a comment or a reference."""
        return self.cdata_elem is None and len(self.rawdata) > length

    def finish(self) -> None:
        if self.is_within_a_tag_of(LONGEST_UNFINISHED_TAG) and self.rawdata.startswith("<"):
            self._text.note("its end, within a tag, left out")
        else:
            self.close()
        self.end_block()

    def end_block(self) -> None:
        """What was collected is a block, or the end of a table."""
        self._end_row()
        if self._rows:
            self._text.rows(self._rows)
            self._rows = []
        collected = "".join(self._pieces)
        if collected.strip():
            if self._is_preformatted:
                self._text.block(f"```\n{collected.strip(_LINE_ENDS)}\n```")
            else:
                self._text.block(self._prefix + "\n".join(map(one_line, collected.split("\n"))).strip())
        self._pieces, self._size = [], 0

    def _start_block(self, tag: str) -> None:
        if self._row is not None:
            self._add(" ")
            return
        self.end_block()
        self._prefix = _PREFIXES.get(tag, "")
        self._is_preformatted = tag == "pre"

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > LONGEST_BLOCK:
            self.end_block()

    def _end_cell(self) -> None:
        if self._row is not None and self._pieces:
            self._row.append(one_line("".join(self._pieces)))
            self._pieces, self._size = [], 0

    def _end_row(self) -> None:
        if self._row is None:
            return
        self._end_cell()
        self._rows.append(self._row)
        self._row = None
        if len(self._rows) >= ROWS_AT_ONCE:
            self._text.rows(self._rows)
            self._rows = []
