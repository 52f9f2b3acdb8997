"""A TOML file that can say on which line something stands.

`tomllib` gives values without places. So when there is something to complain about, and only then, the text is walked
statement by statement, in time linear in its length.
"""

import re
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from service.errors import BadRequest

LIMIT_BYTES = 1 << 20


def read_document(path: Path, what: str) -> "Document":
    """Read a file. `what` it is stands in the complaints.

    Raises:
        BadRequest: it cannot be read, is too large, not UTF-8 or not TOML; the message names file and line.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LIMIT_BYTES + 1)
    except OSError as exc:
        raise BadRequest(f"{what} {path} cannot be read: {exc.strerror}") from exc
    if len(raw) > LIMIT_BYTES:
        raise BadRequest(f"{what} {path} has more than {LIMIT_BYTES} bytes, which is the most that is read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise BadRequest(f"{what} {path}, line {line}: expected UTF-8, found the byte {raw[exc.start]:#04x}") from exc
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise BadRequest(f"{what} {path} is not TOML: {exc}") from exc
    return Document(path, text, values)


class Document:
    """A file's values, and where they stand."""

    def __init__(self, path: Path, text: str, values: dict[str, Any]) -> None:
        self.path = path
        self.text = text
        self.values = values

    def __repr__(self) -> str:
        return f"<Document {self.path}>"

    def place(self, keys: tuple[str, ...]) -> str:
        """`FILE, line N` of the innermost of these nested keys that has a line of its own; `FILE` if none has."""
        for end in range(len(keys), 0, -1):
            if (line := self._lines.get(keys[:end])) is not None:
                return f"{self.path}, line {line}"
        return str(self.path)

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], int]:
        lines: dict[tuple[str, ...], int] = {}
        for keys, line in _statements(self.text.replace("\r\n", "\n")):
            for end in range(1, len(keys) + 1):
                lines.setdefault(keys[:end], line)
        return lines


_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|#[^\n]*+"
    r"|[\[\]{}\n]",
    re.DOTALL,
)
"""What a line end or a bracket may stand in, and what ends a statement. Of text that is TOML."""


def _statements(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key path that is written out, with its line (from 1). `text` is TOML."""
    table: tuple[str, ...] = ()
    at, line = 0, 1
    while at < len(text):
        end = _end_of_statement(text, at)
        statement = text[at:end].strip()
        paths = _paths(tomllib.loads(statement))
        if statement.startswith("["):
            table = max(paths, key=len)
            yield table, line
        else:
            yield from (((*table, *path), line) for path in paths)
        line += text.count("\n", at, end + 1)
        at = end + 1


def _end_of_statement(text: str, start: int) -> int:
    """Where the first line ends that ends neither within a string nor between brackets."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        match token.group():
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case "\n" if depth == 0:
                return token.start()
    return len(text)


def _paths(value: object) -> Iterator[tuple[str, ...]]:
    """The paths of all nested keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            for path in _paths(inner):
                yield (key, *path)
