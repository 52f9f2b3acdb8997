"""A reply that is written piece by piece."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.protocol import HostCallItem
from service.gateway.pieces import is_long, reply_at_once, reply_in_pieces

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
ITEMS = st.lists(st.builds(HostCallItem, ok=st.booleans(), value=VALUES, kind=TEXTS, message=TEXTS), max_size=4)


@given(ITEMS, st.integers(min_value=1, max_value=20))
def test_pieces_make_the_reply(items: list[HostCallItem], piece_bytes: int) -> None:
    """Wherever it is cut, a reply says what it says at once, and whoever measures it before finds the same length."""
    pieces = list(reply_in_pieces(items, piece_bytes))
    assert json.loads(b"".join(pieces)) == json.loads(reply_at_once(items))
    assert sum(map(len, reply_in_pieces(items, piece_bytes))) == sum(map(len, pieces))


def chars(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(len(name) + chars(part) for name, part in value.items())
    if isinstance(value, list):
        return len(value) + sum(map(chars, value))
    return len(value) if isinstance(value, str) else 1


@given(ITEMS, st.integers(min_value=0, max_value=60))
def test_what_is_long_is_known_without_encoding_it(items: list[HostCallItem], most: int) -> None:
    """A reply is long by the characters of its values."""
    assert is_long(items, most) == (chars([item.value for item in items]) > most)


def test_no_piece_is_long() -> None:
    """A text of a million characters is written some thousands at a time."""
    items = [HostCallItem(ok=True, value="\x00" * 1_000_000), *[HostCallItem(ok=True, value="x")] * 10_000]
    assert max(map(len, reply_in_pieces(items, 1_000))) <= 8_000
