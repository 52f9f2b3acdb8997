"""The arguments of a host call, as a hostile kernel may send them."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.host_calls import CallRefused, _parse_arguments
from sandbox_image.json_values import UnendedText, has_more_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='\\",[{}]:é\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='\\",[{'), inner),
)


def containers_and_commas(value: object) -> int:
    """How often `,`, `[` and `{` stand outside of texts."""
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(containers_and_commas, value.values()))
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(containers_and_commas, value))
    return 0


@given(VALUES, st.integers(min_value=1, max_value=10), st.integers(min_value=1, max_value=40), st.booleans())
def test_values_are_counted_outside_of_texts(value: object, most: int, piece_bytes: int, is_ascii: bool) -> None:
    """What a text contains, escaped quotes and brackets included, is not counted; everything else is, wherever the
    pieces end that are counted one after the other."""
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert has_more_values(body, most, piece_bytes) == (containers_and_commas(value) > most)


@given(st.binary(), st.text(alphabet='\\",[{x'), st.integers(min_value=1, max_value=40))
def test_no_bytes_break_the_count(data: bytes, text: str, piece_bytes: int) -> None:
    """Bytes that are no JSON are counted or refused, the same in one piece and in many."""

    def counted(body: bytes, piece_bytes: int) -> bool | None:
        try:
            return has_more_values(body, 3, piece_bytes)
        except UnendedText:
            return None

    for body in (data, text.encode()):
        assert counted(body, piece_bytes) == counted(body, 1 << 20)


@pytest.mark.parametrize(
    ("start", "piece", "end"),
    [
        (b'"', b'\\"', b""),
        (b'{"prompts":["', b'\\"', b'"]}'),
        (b"", b'"', b""),
        (b"", b'"\\', b""),
        (b"\\", b'\\"', b'"'),
        (b"", b'"a",', b""),
    ],
)
def test_hostile_texts_take_linear_time(start: bytes, piece: bytes, end: bytes) -> None:
    """Ten times as many quotes and backslashes take some ten times as long, not a hundred times."""

    def processor_s(pieces: int) -> float:
        body = start + piece * pieces + end
        began = time.process_time()
        with contextlib.suppress(CallRefused):
            _parse_arguments(body)
        return time.process_time() - began

    few = max(processor_s(100_000), 0.001)
    assert any(processor_s(1_000_000) < 50 * few for _ in range(3))  # a busy machine's caches cost processor time too


def test_a_text_without_an_end_is_refused() -> None:
    """It is no JSON, and nothing is made of it."""
    with pytest.raises(CallRefused, match="not JSON"):
        _parse_arguments(b'{"prompts": ["' + b'\\"' * 1_000_000)


def test_too_many_values_are_refused_before_they_are_made() -> None:
    """Neither brackets nor texts beyond the cap are parsed."""
    for body in (b"[" * 3_000_000, b'["",' + b'"",' * 5_000_000 + b'""]', b'"' * 10_000_000):
        with pytest.raises(CallRefused, match="more than 2000000 values"):
            _parse_arguments(body)
