"""How many values a JSON text has, counted before any is made.

A megabyte of brackets, or of digits and commas, is half a million objects, many times its size in memory; and where a
strict schema does not want them it makes an error of each.
"""

import re

_PIECE_BYTES = 1 << 20
"""Counted at once; whoever else runs in the process has its turn between two pieces."""
_QUOTES_PER_VALUE = 4
"""Two for every value and for the name that it may have."""
_PLAIN_STRINGS = re.compile(rb'"[^"]*"')


class UnendedText(ValueError):
    """A text of it has no end, so it is no JSON."""


def has_more_values(body: bytes, most: int, piece_bytes: int = _PIECE_BYTES) -> bool:
    """Whether JSON would make more than `most` values of it: `,`, `[` and `{` outside of texts are counted, which are
    at least half as many. In linear time whatever the body is, and it ends where the answer is known.

    Raises:
        UnendedText: it is no JSON.
    """
    values = quotes = begin = 0
    is_in_text = False
    while begin < len(body):
        piece = body[begin : _end_of_piece(body, begin, piece_bytes)]
        begin += len(piece)
        without_escapes = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        here = without_escapes.count(b'"')
        quotes += here
        if quotes > _QUOTES_PER_VALUE * most:
            return True
        if is_in_text:
            without_escapes = b'"' + without_escapes
        is_in_text ^= here % 2 == 1
        if is_in_text:
            without_escapes += b'"'
        structure = _PLAIN_STRINGS.sub(b"", without_escapes)
        values += structure.count(b",") + structure.count(b"[") + structure.count(b"{")
        if values > most:
            return True
    if is_in_text:
        raise UnendedText("a text without an end")
    return False


def _end_of_piece(body: bytes, begin: int, piece_bytes: int) -> int:
    """Never between a backslash and what it escapes."""
    end = min(begin + piece_bytes, len(body))
    piece = body[begin:end]
    backslashes = len(piece) - len(piece.rstrip(b"\\"))
    return min(end + backslashes % 2, len(body))
