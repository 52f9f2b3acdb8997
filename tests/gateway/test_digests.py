"""The digest under which a host call is recorded."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.gateway.digests import digest_of, feed_canonical

TEXTS = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.integers(min_value=1, max_value=5))
def test_pieces_make_the_canonical_json(value: Any, piece_chars: int) -> None:
    """Whatever the value and wherever its texts are cut, what is digested is what the encoder writes at once."""
    pieces: list[str] = []
    feed_canonical(value, pieces.append, piece_chars)
    assert "".join(pieces) == json.dumps(value, sort_keys=True, separators=(",", ":"))


@given(st.dictionaries(TEXTS, VALUES, max_size=3))
def test_a_digest_does_not_depend_on_how_it_was_made(arguments: dict[str, Any]) -> None:
    """A call that is repeated has its digest again, by whichever way."""
    assert digest_of(arguments, is_large=True) == digest_of(arguments, is_large=False)


def test_no_piece_is_large() -> None:
    """A text of millions of characters is encoded some thousands at a time."""
    pieces: list[str] = []
    feed_canonical({"prompts": ["é" * 1_000_000]}, pieces.append, 1_000)
    assert max(map(len, pieces)) <= 6_000
