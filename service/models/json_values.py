"""JSON from servers that are not trusted: parsing, token counts, text. Shared by all protocols."""

import json
from typing import Any

MOST_TOKENS = 1_000_000_000
"""A count of tokens above this is nonsense: no window is near it."""


class Malformed(Exception):
    """The server's JSON is not what the protocol says; the text says what was expected."""


def parse_json(text: str | bytes) -> Any:
    """JSON from a server.

    Raises:
        Malformed: it is not JSON, contains NaN or infinities, or is nested too deeply.
    """
    try:
        return _DECODER.decode(
            text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        )
    except (ValueError, RecursionError):
        raise Malformed("expected JSON") from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""Made once: `json.loads` makes one each time that it is given an option."""


def body_bytes(body: dict[str, Any]) -> bytes:
    """The body of a request. A lone surrogate cannot be sent as UTF-8, nor as an escape: it becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def token_count(value: object) -> int | None:
    """A count of tokens; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        return None
    return value


def without_surrogates(text: str) -> str:
    """JSON can spell halves of a character, and some servers cut between them: pairs are joined, others replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
