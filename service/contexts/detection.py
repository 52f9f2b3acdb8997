"""What kind of context a file is, by its name; and by its bytes, whether it is text at all and in which encoding.

CSV and everything unknown is text: models read it as text.
"""

import codecs
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from service.contexts.documents.formats import ADVICE, FORMATS, INSTALL, DocumentFormat, format_of, is_readable_here
from service.contexts.encodings import UTF8, UTF8_MARKED, Encoding, NoText, find_encoding

FileKind = Literal["text", "json", "json_lines"]
"""What a file's text becomes."""

_HEAD_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file whose bytes are text."""

    kind: FileKind
    encoding: Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFile:
    """A file that has to be read into text first."""

    format: DocumentFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableFile:
    """A file that cannot become a context."""

    reason: str
    """For several files at once: "not text"."""
    detail: str
    """For one file, after its name: what is wrong and what to do."""
    lacks_encoding: bool = False
    """It could be used if somebody named its encoding."""


FileLook = TextFile | DocumentFile | UnusableFile


def kind_of(path: PurePath) -> FileKind:
    """The kind a file of this name is taken for when nobody says otherwise."""
    match path.suffix.lower():
        case ".json":
            return "json"
        case ".jsonl" | ".ndjson":
            return "json_lines"
        case _:
            return "text"


def look_at(path: Path, *, encoding: Encoding | None = None, as_it_is: bool = False) -> FileLook:
    """What a file is. Text is looked at whole, unless its encoding is given. Blocking; raises `OSError`.

    With `as_it_is` a document is what its bytes are: an HTML page its markup.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    document = None if as_it_is else format_of(path, head)
    if document is not None:
        if is_readable_here(document):
            return DocumentFile(format=document)
        label = FORMATS[document].label
        return UnusableFile(
            reason=f"of a format that needs the documents extra, installed with {INSTALL}",
            detail=f"is a {label}: to read it, install the documents extra with {INSTALL}",
        )
    kind = kind_of(path)
    found = encoding or find_encoding(path)
    if isinstance(found, NoText):
        return _unusable(path, found)
    if found == UTF8 and kind != "text" and head.startswith(codecs.BOM_UTF8):
        found = UTF8_MARKED
    return TextFile(kind=kind, encoding=found)


def _unusable(path: Path, found: NoText) -> UnusableFile:
    if found.reason == "undecided":
        return UnusableFile(
            reason="in an encoding that could not be told",
            detail=f"is not UTF-8 ({found.detail}) and its encoding could not be told: name it, such as windows-1252",
            lacks_encoding=True,
        )
    advice = ADVICE.get(path.suffix.lower(), "convert it to text or JSON first")
    return UnusableFile(reason="not text", detail=f"is not text ({found.detail}): {advice}")
