"""A reply to a host call, written piece by piece as it is read: an answer of many megabytes that nobody reads, or that
is asked for over and over, takes no more memory than it has already.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

from sandbox_image.protocol import HostCallItem as WireItem
from sandbox_image.protocol import HostCallReply

PIECE_BYTES = 64 << 10

_REPLY = TypeAdapter(HostCallReply)
_ITEM = TypeAdapter(WireItem)


def reply_at_once(items: Sequence[WireItem]) -> bytes:
    return _REPLY.dump_json(HostCallReply(items=list(items)))


def reply_in_pieces(items: Sequence[WireItem], piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """The same reply. No piece is much longer than an item without its text, or six times `piece_bytes`."""
    gathered = bytearray(b'{"items":[')
    for number, item in enumerate(items):
        gathered += b"," if number else b""
        for part in _parts(item, piece_bytes):
            gathered += part
            if len(gathered) >= piece_bytes:
                yield bytes(gathered)
                gathered.clear()
    gathered += b"]}"
    yield bytes(gathered)


def _parts(item: WireItem, piece_chars: int) -> Iterator[bytes]:
    if not isinstance(item.value, str) or len(item.value) <= piece_chars:
        yield _ITEM.dump_json(item)
        return
    yield b'{"ok":%s,"value":"' % (b"true" if item.ok else b"false")
    for begin in range(0, len(item.value), piece_chars):
        yield json.dumps(item.value[begin : begin + piece_chars], ensure_ascii=False).encode()[1:-1]
    yield b'","kind":%s,"message":%s}' % (json.dumps(item.kind).encode(), json.dumps(item.message).encode())


def is_long(items: Sequence[WireItem], most_chars: int = PIECE_BYTES) -> bool:
    """Whether the values have more characters than that; looked at no further than to there."""
    waiting: list[Any] = [[item.value for item in items]]
    chars = 0
    while waiting:
        value = waiting.pop()
        match value:
            case str():
                chars += len(value)
            case list() | dict():
                chars += len(value)
                if chars <= most_chars:
                    waiting += value if isinstance(value, list) else [*value.keys(), *value.values()]
            case _:
                chars += 1
        if chars > most_chars:
            return True
    return False
