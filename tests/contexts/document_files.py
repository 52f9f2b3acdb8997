"""Small writers of documents, good and hostile, for the tests of this room."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import docx
import pptx
import xlsxwriter  # type: ignore[import-untyped]  # comes with python-pptx, which makes charts with it
from pptx.util import Inches
from pypdf import PdfReader, PdfWriter


def pdf(pages: Sequence[str]) -> bytes:
    """A PDF with one line of text on each page; an empty line gives a page without text."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for line in pages:
        content = b"BT /F1 12 Tf 50 700 Td (%s) Tj ET" % line.encode("latin-1") if line else b""
        number = len(objects) + 1
        kids.append(b"%d 0 R" % number)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (number + 1)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    return _pdf_of(objects)


def _pdf_of(objects: Sequence[bytes]) -> bytes:
    written = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    written += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table) + b"trailer << /Size %d /Root 1 0 R >>\n" % size
    return bytes(written) + b"startxref\n%d\n%%%%EOF\n" % written.rindex(b"xref")


def encrypted_pdf(*, password: str) -> bytes:
    """Open to everybody where the password is empty, as documents are that may only not be printed."""
    writer = PdfWriter(PdfReader(io.BytesIO(pdf(["secret page"]))))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word_document() -> bytes:
    document = docx.Document()
    document.add_heading("Report", level=1)
    document.add_paragraph("Größe matters.")
    document.add_paragraph("first", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for row, words in zip(table.rows, [("name", "sum"), ("Müller, A.", "3")], strict=True):
        for cell, word in zip(row.cells, words, strict=True):
            cell.text = word
    document.add_paragraph("after the table")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def presentation() -> bytes:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    assert slide.shapes.title is not None
    slide.shapes.title.text_frame.text = "Plan"
    slide.shapes.add_textbox(Inches(1), Inches(2), Inches(3), Inches(1)).text_frame.text = "alpha\nbeta"
    slide.notes_slide.notes_text_frame.text = "say hello"
    deck.slides.add_slide(deck.slide_layouts[6])
    out = io.BytesIO()
    deck.save(out)
    return out.getvalue()


def workbook() -> bytes:
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out)
    first = book.add_worksheet("Sales")
    first.write_row(0, 0, ["name", "sum", "paid"])
    first.write_row(1, 0, ["Müller, A.", 3.5, True])
    first.write_row(2, 0, ["Ng", 4, False])
    book.add_worksheet("Empty")
    book.close()
    return out.getvalue()


def with_member(package: bytes, name: str, content: bytes) -> bytes:
    """An Office file with one of its members replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            if member.filename != name:
                new.writestr(member, old.read(member))
        new.writestr(name, content)
    return out.getvalue()


def claiming(package: bytes, name: str, *, unpacked_bytes: int) -> bytes:
    """An Office file whose table of contents gives one member another size."""
    entry = package.rindex(name.encode(), 0, package.rindex(b"PK\x05\x06")) - 46
    assert package[entry : entry + 4] == b"PK\x01\x02"
    return package[: entry + 24] + unpacked_bytes.to_bytes(4, "little") + package[entry + 28 :]


def kept(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path
