"""Word: headings, paragraphs, lists and tables of the body, in order, as Markdown; tables as CSV."""

import re
from collections.abc import Iterator
from typing import BinaryIO

import docx
from docx.document import Document as WordDocument
from docx.oxml.ns import qn
from docx.table import Table, _Cell, _Row
from docx.text.paragraph import Paragraph

from service.contexts.documents.packages import check_package
from service.contexts.documents.text_writer import TextWriter, Unreadable, one_line

MOST_COLUMNS = 16_384
"""As in a spreadsheet; Word itself stops at 63."""

_HEADING = re.compile(r"Heading ([1-9])")


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:  # XML says its own
    check_package(document)
    body = docx.Document(document)
    _check_spans(body)
    for block in body.iter_inner_content():
        if isinstance(block, Table):
            text.rows(_cells(row) for row in block.rows)
        else:
            text.block(_paragraph(block))


def _check_spans(body: WordDocument) -> None:
    """The library gives a cell once for each column that it says it spans."""
    for span in body.element.iter(qn("w:gridSpan")):
        said = span.get(qn("w:val")) or "1"
        if len(said) > 5 or int(said) > MOST_COLUMNS:
            raise Unreadable(f"has a table cell over more than {MOST_COLUMNS:,} columns: it is damaged")


def _paragraph(paragraph: Paragraph) -> str:
    words = paragraph.text
    style = paragraph.style.name if paragraph.style is not None and paragraph.style.name else ""
    heading = _HEADING.match(style)
    if heading is not None:
        return f"{'#' * min(int(heading[1]), 6)} {one_line(words)}" if words.strip() else ""
    if style == "Title":
        return f"# {one_line(words)}" if words.strip() else ""
    return f"- {words}" if style.startswith("List") and words.strip() else words


def _cells(row: _Row) -> list[str]:
    cells: list[str] = []
    skipped = 0
    for cell in row.cells:
        # A cell that spans columns comes once for each.
        if skipped:
            skipped -= 1
            cells.append("")
            continue
        skipped = cell.grid_span - 1
        cells.append("\n".join(_lines(cell)))
    return cells


def _lines(cell: _Cell) -> Iterator[str]:
    for block in cell.iter_inner_content():
        if isinstance(block, Table):
            for row in block.rows:
                yield " | ".join(_cells(row))
        elif block.text.strip():
            yield block.text
