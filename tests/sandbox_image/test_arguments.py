"""The arguments of a host call, as a hostile kernel may send them."""

import contextlib
import time

import pytest

from sandbox_image.host_calls import CallRefused, _check_arguments, _parse_arguments


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
    for body in (b"[" * 3_000_000, b'["",' + b'"",' * 5_000_000 + b'""]'):
        with pytest.raises(CallRefused, match="more than 100000 values"):
            _parse_arguments(body)


def test_a_schema_that_would_be_refused_does_not_leave_the_sandbox() -> None:
    """One of more characters than a schema may have is refused where it stands."""
    arguments = {"prompts": ["x"], "model": None, "schema": {"enum": list(range(90_000))}}
    with pytest.raises(CallRefused, match="larger than 64000 characters"):
        _check_arguments("llm_query", arguments)
