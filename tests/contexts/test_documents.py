"""What documents become."""

import json
from pathlib import Path

import pytest

from service.contexts.detection import DocumentFile, UnusableFile, look_at
from service.contexts.documents.conversion import ConversionLimits, Document
from service.contexts.documents.formats import FORMATS, format_of
from service.contexts.redis_contexts import Contexts
from service.errors import BadRequest
from tests.contexts import document_files as files
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

SMALL = ConversionLimits(memory_bytes=512 << 20, cpu_s=60, wall_s=60.0)


async def text_of(path: Path, told: list[str] | None = None, encoding: str = "") -> str:
    document_format = format_of(path)
    assert document_format is not None
    tell = (lambda _: None) if told is None else told.append
    document = Document(path=path, format=document_format, encoding=encoding, tell=tell, limits=SMALL)
    async with document.opened(path.name) as chunks:
        return b"".join([chunk async for chunk in chunks]).decode()


async def test_a_pdf_becomes_its_pages(tmp_path: Path) -> None:
    """Each page's text stands under its number, and pages that have none are told."""
    told: list[str] = []
    path = files.kept(tmp_path, "scan.pdf", files.pdf(["first page", "", "third"]))
    text = await text_of(path, told)
    assert text == "<!-- page 1 -->\nfirst page\n\n<!-- page 2 -->\n<!-- page 3 -->\nthird\n\n"
    assert told == ["scan.pdf: read as PDF (3 pages; without text, perhaps scanned: page 2)"]


async def test_a_pdf_that_is_only_not_to_be_printed_is_read(tmp_path: Path) -> None:
    """Encryption with an empty password keeps nobody out."""
    path = files.kept(tmp_path, "open.pdf", files.encrypted_pdf(password=""))
    assert "secret page" in await text_of(path)


async def test_a_word_document_becomes_markdown(tmp_path: Path) -> None:
    """Headings, paragraphs, lists and tables come in their order; tables as CSV that code can read back."""
    text = await text_of(files.kept(tmp_path, "a.docx", files.word_document()))
    assert text == ('# Report\n\nGröße matters.\n\n- first\n\nname,sum\n"Müller, A.",3\n\nafter the table\n\n')


async def test_a_presentation_becomes_its_slides(tmp_path: Path) -> None:
    """Each slide has its title, its text and its notes under its number."""
    text = await text_of(files.kept(tmp_path, "a.pptx", files.presentation()))
    assert text == "<!-- slide 1 -->\n# Plan\n\n- alpha\n- beta\n\nNotes: say hello\n\n<!-- slide 2 -->\n"


async def test_a_spreadsheet_becomes_its_rows(tmp_path: Path) -> None:
    """Each sheet is CSV under its name; whole numbers have no fraction."""
    text = await text_of(files.kept(tmp_path, "a.xlsx", files.workbook()))
    assert text == (
        '<!-- sheet 1: Sales -->\nname,sum,paid\n"Müller, A.",3.5,TRUE\nNg,4,FALSE\n\n<!-- sheet 2: Empty -->\n'
    )


async def test_a_page_becomes_what_a_person_reads(tmp_path: Path) -> None:
    """Scripts, styles and markup are gone; headings, lists, links, tables and preformatted text stay."""
    page = (
        "<title>My  page</title><style>p{}</style><script>if (a<b) '<p>no</p>'</script><h2>Hi <b>you</b></h2>\n"
        "<p>See <a href='https://example.org/x'>this</a>,<br>not <a href='#y'>that</a> &amp; more"
        "<ul><li>one<li>two</ul><table><tr><th>a<th>b</tr><tr><td>1, x<td></td></tr></table>"
        "<pre>\n x\n  y</pre><svg><text>no</text></svg>end"
    )
    assert await text_of(files.kept(tmp_path, "a.html", page.encode())) == (
        "# My page\n\n## Hi you\n\nSee this (https://example.org/x),\nnot that & more\n\n- one\n\n- two\n\n"
        'a,b\n"1, x"\n\n```\n x\n  y\n```\n\nend\n\n'
    )


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        ("<p>Größe".encode(), ""),
        ("<p>Größe".encode("utf-16"), ""),
        ("<p>Größe".encode("windows-1252"), ""),
        ('<meta charset="iso-8859-1"><p>Größe'.encode("latin-1"), ""),
        ('<meta charset="nonsense"><p>Größe'.encode(), ""),
        ('<meta charset="utf-8"><p>Größe'.encode("cp850"), "cp850"),
    ],
)
async def test_a_page_is_read_as_browsers_read_it(tmp_path: Path, page: bytes, encoding: str) -> None:
    """A mark, the page's own word, UTF-8, then windows-1252 decide; what a person says overrules them."""
    assert await text_of(files.kept(tmp_path, "a.htm", page), encoding=encoding) == "Größe\n\n"


async def test_a_notebook_becomes_code_and_what_it_printed(tmp_path: Path) -> None:
    """Code, Markdown, printed text and tracebacks stay; images do not, and it is said where one was."""
    notebook = {
        "metadata": {"language_info": {"name": "python"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "words"]},
            {
                "cell_type": "code",
                "source": "print(1)",
                "outputs": [
                    {"output_type": "stream", "text": ["1\n"]},
                    {"output_type": "display_data", "data": {"image/png": "iVBOR" * 1000, "text/plain": ["<Figure>"]}},
                    {"output_type": "error", "traceback": ["\x1b[31mTraceback\x1b[0m", "ZeroDivisionError"]},
                ],
            },
        ],
    }
    assert await text_of(files.kept(tmp_path, "a.ipynb", json.dumps(notebook).encode())) == (
        "<!-- cell 1: markdown -->\n# Title\nwords\n\n<!-- cell 2: code -->\n```python\nprint(1)\n```\n\n"
        "```\n1\n```\n\n```\n<Figure>\n```\n\n<!-- output left out: image/png -->\n"
        "```\nTraceback\nZeroDivisionError\n```\n\n"
    )


async def test_a_message_becomes_its_headers_and_its_text(tmp_path: Path) -> None:
    """Encoded headers are decoded, the plain text is preferred, attachments are named."""
    message = (
        b"From: a@example.org\r\nTo: b@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\nContent-Type: text/plain; charset=iso-8859-1\r\n'
        b"\r\nsch\xf6n\r\n--x\r\nContent-Type: application/zip\r\nContent-Disposition: attachment; filename=a.zip\r\n"
        b"\r\nPK\r\n--x--\r\n"
    )
    assert await text_of(files.kept(tmp_path, "a.eml", message)) == (
        "From: a@example.org\nTo: b@example.org\nSubject: Grüße\n\nschön\n\n<!-- attachment left out: a.zip -->\n"
    )


async def test_a_message_of_html_alone_becomes_the_text_of_the_page(tmp_path: Path) -> None:
    """A message that has no plain text is read like a page."""
    message = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>one<p>two"
    assert await text_of(files.kept(tmp_path, "a.eml", message)) == "Subject: x\n\none\n\ntwo\n\n"


async def test_a_document_is_kept_as_text_once(stored: Stored, tmp_path: Path) -> None:
    """A document becomes a text context under its own name, and the same document again is the same context."""
    contexts = Contexts(stored.store, stored.blobs, stored.tenant)
    path = files.kept(tmp_path, "a.docx", files.word_document())
    document = Document(path=path, format="docx", limits=SMALL)
    context = await contexts.put("a.docx", "text", document)
    assert (context.kind, context.name, context.type_name) == ("text", "a.docx", "str")
    assert context.preview.startswith("# Report\n\nGröße")
    assert await contexts.put("a.docx", "text", document) == context


async def test_one_bad_document_does_not_take_a_directory_with_it(stored: Stored, tmp_path: Path) -> None:
    """Among named texts a document that cannot be read is left out and told, and the others are kept."""
    contexts = Contexts(stored.store, stored.blobs, stored.tenant)
    good = Document(path=files.kept(tmp_path, "good.pdf", files.pdf(["fine"])), format="pdf", limits=SMALL)
    bad = Document(path=files.kept(tmp_path, "bad.pdf", b"%PDF-1.4 nothing"), format="pdf", limits=SMALL)
    told: list[BadRequest] = []
    context = await contexts.put_named_texts("docs", [("a", bad), ("b", good)], leave_out=told.append)
    assert [part.name for part in context.parts] == ["b"]
    assert [str(error).startswith("a: the PDF is damaged") for error in told] == [True]
    with pytest.raises(BadRequest, match="a: the PDF is damaged"):
        await contexts.put_named_texts("docs", [("a", bad), ("b", good)])


def test_every_suffix_belongs_to_one_format() -> None:
    """No name is ambiguous, and case does not matter."""
    suffixes = [suffix for card in FORMATS.values() for suffix in card.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    for name, card in FORMATS.items():
        for suffix in card.suffixes:
            assert format_of(Path(f"x{suffix.upper()}")) == name


def test_a_pdf_is_known_without_its_suffix(tmp_path: Path) -> None:
    """A download without a suffix is still a PDF; a page that calls itself one in its text is not."""
    assert look_at(files.kept(tmp_path, "download", files.pdf(["x"]))) == DocumentFile(format="pdf")
    assert not isinstance(look_at(files.kept(tmp_path, "a.txt", b"%PDF-1.4 is how they begin")), DocumentFile)


def test_older_formats_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """What looks like a document and cannot be read comes with advice."""
    look = look_at(files.kept(tmp_path, "old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0"))
    assert isinstance(look, UnusableFile)
    assert look.detail == "is not text (a zero byte at offset 8): save it as .docx"
