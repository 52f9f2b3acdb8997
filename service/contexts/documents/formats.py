"""Which documents can be read, what their files are called, and which libraries it takes."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from typing import Literal

DocumentFormat = Literal["pdf", "docx", "pptx", "spreadsheet", "html", "notebook", "mail"]

INSTALL = "`sh deploy/setup_environment.sh documents`"
"""What makes the formats readable that need a library: run in the checkout, with uv or without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatCard:
    """One format."""

    label: str
    """For people."""
    suffixes: tuple[str, ...]
    reader: str
    """The module of this package that reads it, in the process."""
    library: str | None = None
    """What the reader imports; None when Python's own library is enough."""


FORMATS: dict[DocumentFormat, FormatCard] = {
    "pdf": FormatCard(label="PDF", suffixes=(".pdf",), reader="pdf_pages", library="pypdf"),
    "docx": FormatCard(label="Word document", suffixes=(".docx", ".docm"), reader="word_text", library="docx"),
    "pptx": FormatCard(label="PowerPoint presentation", suffixes=(".pptx", ".pptm"), reader="slides", library="pptx"),
    "spreadsheet": FormatCard(
        label="spreadsheet",
        suffixes=(".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"),
        reader="sheets",
        library="python_calamine",
    ),
    "html": FormatCard(label="HTML page", suffixes=(".html", ".htm", ".xhtml"), reader="web_page"),
    "notebook": FormatCard(label="notebook", suffixes=(".ipynb",), reader="notebook_cells"),
    "mail": FormatCard(label="e-mail", suffixes=(".eml",), reader="mail_message"),
}

ADVICE: dict[str, str] = {
    ".doc": "save it as .docx",
    ".ppt": "save it as .pptx",
    ".odt": "save it as .docx",
    ".odp": "save it as .pptx",
    ".rtf": "save it as .docx",
    ".msg": "save it as .eml",
    ".epub": "convert it to HTML or text",
    ".zip": "unpack it and give the directory",
}
"""For files that look like documents and cannot be read."""

_BY_SUFFIX = {suffix: name for name, card in FORMATS.items() for suffix in card.suffixes}
_PDF_MARK = b"%PDF-"


def format_of(path: PurePath, head: bytes = b"") -> DocumentFormat | None:
    """The format of a file, by its name; by its first bytes where the name has no suffix."""
    found = _BY_SUFFIX.get(path.suffix.lower())
    if found is None and not path.suffix and head.startswith(_PDF_MARK):
        return "pdf"
    return found


def is_readable_here(document_format: DocumentFormat) -> bool:
    """Whether its library is installed. The library is looked for, not imported."""
    library = FORMATS[document_format].library
    return library is None or find_spec(library) is not None


def missing_libraries() -> list[str]:
    """The labels of the formats that cannot be read here."""
    return [card.label for name, card in FORMATS.items() if not is_readable_here(name)]
