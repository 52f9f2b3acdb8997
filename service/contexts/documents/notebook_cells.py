"""Notebooks: code in fences, Markdown as it is, and what cells printed; images and other encoded output left out."""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, TypeGuard

from service.contexts.documents.text_writer import TextWriter, Unreadable

Json = dict[str, object]

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read(document: BinaryIO, text: TextWriter, encoding: str) -> None:  # JSON is UTF-8
    try:
        notebook = json.loads(document.read())
    except ValueError:
        raise Unreadable("is damaged, or no notebook (it is not JSON)") from None
    if not _is_object(notebook):
        raise Unreadable("is no notebook (its JSON is not an object)")
    language = _language(notebook)
    count = 0
    for count, cell in enumerate(_cells(notebook), 1):
        kind = str(cell.get("cell_type", "unknown"))
        text.mark(f"cell {count}: {kind}")
        source = _joined(cell.get("source", cell.get("input", "")))
        text.block(_fenced(source, language) if kind == "code" else source)
        for output in _objects(cell.get("outputs")):
            _output(output, text)
    text.note(f"{count} cell{'' if count == 1 else 's'}")


def _cells(notebook: Json) -> Iterator[Json]:
    yield from _objects(notebook.get("cells"))
    for sheet in _objects(notebook.get("worksheets")):  # until version 3 of the format
        yield from _objects(sheet.get("cells"))


def _language(notebook: Json) -> str:
    metadata = notebook.get("metadata")
    info = metadata.get("language_info") if _is_object(metadata) else None
    name = info.get("name") if _is_object(info) else None
    return name if isinstance(name, str) and name.isalnum() else "python"


def _output(output: Json, text: TextWriter) -> None:
    if "traceback" in output:
        trace = output["traceback"]
        lines = trace if isinstance(trace, list) else [trace]
        text.block(_fenced(_COLOURS.sub("", "\n".join(map(str, lines))), ""))
        return
    if "data" not in output and "text" in output:
        text.block(_fenced(_COLOURS.sub("", _joined(output["text"])), ""))
        return
    data = output.get("data")
    if not _is_object(data):
        return
    if "text/markdown" in data:
        text.block(_joined(data["text/markdown"]))
    elif "text/plain" in data:
        text.block(_fenced(_joined(data["text/plain"]), ""))
    left_out = sorted(kind for kind in data if not kind.startswith("text/"))
    if left_out:
        text.mark(f"output left out: {', '.join(left_out)}")


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```" if text.strip() else ""


def _joined(value: object) -> str:
    """The format allows a string, or a list of lines that carry their ends."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _objects(value: object) -> Iterator[Json]:
    return filter(_is_object, value) if isinstance(value, list) else iter(())


def _is_object(value: object) -> TypeGuard[Json]:
    return isinstance(value, dict)
