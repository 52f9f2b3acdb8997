"""PDF: the text of each page under `<!-- page N -->`. Scanned pages have none."""

from typing import BinaryIO

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from service.contexts.documents.text_writer import TextWriter, Unreadable

_LISTED_PAGES = 10


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:  # a PDF says its own
    reader = PdfReader(document)
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("is protected by a password: save a copy without one")
    count = len(reader.pages)
    empty: list[int] = []
    broken: list[int] = []
    for number in range(1, count + 1):
        text.mark(f"page {number}")
        try:
            found = reader.pages[number - 1].extract_text()
        except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            # One bad page does not take the others with it.
            broken.append(number)
            continue
        if not found.strip():
            empty.append(number)
        text.block(found)
    text.note(f"{count} page{'' if count == 1 else 's'}")
    if not text.has_text:
        raise Unreadable(f"has no text on its {count} pages: if it is scanned, run OCR over it first")
    if empty:
        text.note(f"without text, perhaps scanned: {_listed(empty)}")
    if broken:
        text.note(f"damaged and left out: {_listed(broken)}")


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_LISTED_PAGES]))
    return f"page {shown}" if len(numbers) <= _LISTED_PAGES else f"{len(numbers)} pages (page {shown}, …)"
