"""`repr` under a bound: what the last bare expression of a cell shows, and previews of values.

Equal to `repr` for everything that fits. Containers of exactly the built-in types are cut inside, so that echoing a
context of a gigabyte costs what is shown, not what there is. Any other type's own `repr` is called, within the
cell's time.
"""

from collections.abc import Iterable
from typing import Any

MAX_ECHO_CHARS = 100_000
_MAX_NESTING = 40
_BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), dict: ("{", "}")}


def bounded_repr(value: Any, limit: int = MAX_ECHO_CHARS) -> str:
    """`repr(value)`, or its beginning and what was left out."""
    writer = _Writer(limit)
    writer.write_value(value, 0)
    return "".join(writer.pieces)


class _Writer:
    def __init__(self, room: int) -> None:
        self.pieces: list[str] = []
        self._room = room
        self._inside: set[int] = set()

    def _write(self, piece: str) -> None:
        self.pieces.append(piece)
        self._room -= len(piece)

    def write_value(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is str or kind is bytes:
            self._write_text(value)
        elif kind in _BRACKETS and value and depth < _MAX_NESTING:
            self._write_container(value, kind, depth)
        else:
            self._write_foreign(repr(value))

    def _write_text(self, value: str | bytes) -> None:
        keep = max(self._room, 100)
        if len(value) <= keep:
            self._write(repr(value))
            return
        unit = "characters" if isinstance(value, str) else "bytes"
        self._write(f"{value[: keep // 2]!r} … {value[-(keep // 2) :]!r} ({len(value)} {unit} in all)")

    def _write_foreign(self, text: str) -> None:
        keep = max(self._room, 100)
        self._write(text if len(text) <= keep else f"{text[:keep]}… ({len(text)} characters in all)")

    def _write_container(self, value: Any, kind: type, depth: int) -> None:
        if id(value) in self._inside:
            self._write("(...)" if kind is tuple else "{...}" if kind is dict else "[...]")
            return
        self._inside.add(id(value))
        opening, closing = _BRACKETS[kind]
        self._write(opening)
        items: Iterable[Any] = value.items() if kind is dict else value
        for index, item in enumerate(items):
            if self._room <= 0:
                self._write(f", … ({len(value)} items in all)")
                break
            if index:
                self._write(", ")
            if kind is dict:
                self.write_value(item[0], depth + 1)
                self._write(": ")
                self.write_value(item[1], depth + 1)
            else:
                self.write_value(item, depth + 1)
        if kind is tuple and len(value) == 1:
            self._write(",")
        self._write(closing)
        self._inside.discard(id(value))
