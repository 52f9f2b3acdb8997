"""Values on their way out: as text or as JSON, measured, digested and sent without a second copy in memory."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

CHUNK_CHARS = 256 << 10
MAX_PARTIAL_BYTES = 1 << 20
_MAX_PARTIAL_NODES = 20_000

# Held here because a cell may replace them in the modules it shares with the kernel.
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_sha256 = hashlib.sha256

Form = Literal["text", "json"]


class Unserialisable(Exception):
    """The value has no such form; the message says why."""


@dataclass(frozen=True, slots=True)
class EncodedValue:
    """A value as characters. `size_bytes` and `sha256` are of its UTF-8, where surrogates stand as escapes."""

    type_name: str
    text: str
    size_bytes: int
    sha256: str

    def chunks(self) -> Iterator[bytes]:
        return _utf8_chunks(self.text)


def encode_value(value: Any, form: Form) -> EncodedValue:
    """Any value in the form asked for. Runs the value's own `__str__`, so call it within a time limit.

    Raises:
        Unserialisable: JSON was asked for and it is not JSON, or its `__str__` raised.
    """
    text = _as_json(value) if form == "json" else _as_text(value)
    digest = _sha256()
    size = 0
    for chunk in _utf8_chunks(text):
        size += len(chunk)
        digest.update(chunk)
    return EncodedValue(type(value).__name__, text, size, digest.hexdigest())


def is_small(value: Any) -> bool:
    """Whether encoding it after every cell is cheap. Looks at a bounded number of items and calls no foreign code."""
    room = MAX_PARTIAL_BYTES
    nodes = 0
    waiting: list[Any] = [value]
    while waiting:
        nodes += 1
        item = waiting.pop()
        if isinstance(item, str | bytes | bytearray):
            room -= len(item)
        elif type(item) in (list, tuple, set, frozenset, dict):
            if len(item) + nodes > _MAX_PARTIAL_NODES:
                return False
            waiting.extend(item)
            if type(item) is dict:
                waiting.extend(item.values())
        elif type(item) is int:
            room -= item.bit_length() // 3 + 1
        elif item is not None and type(item) not in (float, bool, complex):
            return False
        if room < 0 or nodes > _MAX_PARTIAL_NODES:
            return False
    return True


def rough_size(value: Any) -> int:
    """Of a value that is not encoded now: its length, a lower bound of its bytes."""
    if isinstance(value, str):
        return str.__len__(value)
    return len(value) if type(value) in (bytes, bytearray, list, tuple, dict, set, frozenset) else 0


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value if type(value) is str else str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return str.__str__(str(value))
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise Unserialisable(f"str() of the {type(value).__name__} raised {type(error).__name__}") from None


def _as_json(value: Any) -> str:
    try:
        return _encode_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unserialisable(f"the {type(value).__name__} is not JSON: {str(error)[:300]}") from None


def _utf8_chunks(text: str) -> Iterator[bytes]:
    for start in range(0, str.__len__(text), CHUNK_CHARS):
        yield str.__getitem__(text, slice(start, start + CHUNK_CHARS)).encode("utf-8", "backslashreplace")
