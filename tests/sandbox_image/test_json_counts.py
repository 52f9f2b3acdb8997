"""Counting the values of a JSON body before it is decoded."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image import json_counts
from sandbox_image.json_counts import count_values

TEXTS = st.text(alphabet=st.sampled_from('a,[]{}:"\\\n é'), max_size=12)
VALUES = st.recursive(
    st.none() | st.integers(-3, 3) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def values_in(value: Any) -> int:
    """Keys are no values; an empty list or object counts twice."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return 1 + (sum(map(values_in, value)) or 1)
    return 1


@given(value=VALUES, piece_bytes=st.integers(1, 9), is_ascii=st.booleans())
def test_values_are_counted_however_the_body_is_cut(value: Any, piece_bytes: int, is_ascii: bool) -> None:
    """What stands in strings does not count, whatever quotes and backslashes they hold."""
    payload = json.dumps(value, ensure_ascii=is_ascii).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_counts, "PIECE_BYTES", piece_bytes)
        assert count_values(payload, 10**9) == values_in(value)


def test_counting_ends_where_there_are_too_many() -> None:
    """A little beyond what is allowed: the rest is not looked at."""
    payload = b"[" + b"[]," * 1_000_000 + b"[]]"
    assert 1_000 < count_values(payload, 1_000) < 100_000
