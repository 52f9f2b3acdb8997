"""What kind of context a file is, by its name. CSV and everything unknown is text: models read it as text."""

from pathlib import PurePath
from typing import Literal

FileKind = Literal["text", "json", "json_lines"]


def kind_of(path: PurePath) -> FileKind:
    """The kind a file of this name is taken for when nobody says otherwise."""
    match path.suffix.lower():
        case ".json":
            return "json"
        case ".jsonl" | ".ndjson":
            return "json_lines"
        case _:
            return "text"
