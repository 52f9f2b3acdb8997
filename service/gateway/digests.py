"""The digest of a host call's arguments.

Computed here, not believed: what is recorded and reserved under it must be what was really asked.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

PIECE_CHARS = 64 << 10
"""Of a text, encoded at once: the encoder holds the interpreter's lock, and may make six characters of each."""


def digest_of(arguments: dict[str, Any], *, is_large: bool) -> str:
    """SHA-256 of the canonical JSON: sorted names, no spaces, ASCII. What is large is encoded piece by piece."""
    if not is_large:
        return hashlib.sha256(json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    digest = hashlib.sha256()
    feed_canonical(arguments, lambda text: digest.update(text.encode()), PIECE_CHARS)
    return digest.hexdigest()


def feed_canonical(value: Any, take: Callable[[str], None], piece_chars: int) -> None:
    """Give `take` what `json.dumps(value, sort_keys=True, separators=(",", ":"))` returns, in pieces of long texts."""
    if isinstance(value, dict):
        take("{")
        for number, name in enumerate(sorted(value)):
            take("," if number else "")
            feed_canonical(name, take, piece_chars)
            take(":")
            feed_canonical(value[name], take, piece_chars)
        take("}")
    elif isinstance(value, list):
        take("[")
        for number, part in enumerate(value):
            take("," if number else "")
            feed_canonical(part, take, piece_chars)
        take("]")
    elif isinstance(value, str) and len(value) > piece_chars:
        take('"')
        for begin in range(0, len(value), piece_chars):
            take(json.dumps(value[begin : begin + piece_chars])[1:-1])
        take('"')
    else:
        take(json.dumps(value))
