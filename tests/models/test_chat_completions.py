"""The chat completions protocol, read from servers that say anything."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import Usage
from service.models.chat_completions import CompletionReader, read_usage
from service.models.json_values import Malformed, parse_json
from service.models.port import ModelCallFailed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "usage", "finish_reason", "refusal", "prompt_tokens", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (None, None),
        ({}, None),
        ("many", None),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": 5, "completion_tokens": 3}, Usage(input_tokens=5, output_tokens=3)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, Usage(input_tokens=5, output_tokens=3)),
        # Reasoning that is billed but left out of completion_tokens shows in the total.
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 108}, Usage(input_tokens=5, output_tokens=103)),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(input_tokens=5, cached_input_tokens=4, output_tokens=3),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": None}},
            Usage(input_tokens=5, output_tokens=3),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "cache_creation_input_tokens": 4},
            Usage(input_tokens=9, cache_write_tokens=4, output_tokens=3),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 6}}, None),
        ({"prompt_tokens": -5, "completion_tokens": 3}, None),
        ({"prompt_tokens": 5, "completion_tokens": float("nan")}, None),
        ({"prompt_tokens": 5.0, "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"prompt_tokens": "5", "completion_tokens": "3"}, None),
        ({"prompt_tokens": 5, "completion_tokens": 10**12}, None),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": -1}, None),
    ],
)
def test_usage_is_true_or_none(reported: Any, usage: Usage | None) -> None:
    """Counts are taken as billed; what is missing, of a wrong type or impossible is no usage at all."""
    assert read_usage(reported) == usage


@given(JSON)
def test_any_json_is_read_or_malformed(document: Any) -> None:
    """No document from a server raises anything but `Malformed`, or comes to anything but a reply or a failed call."""
    whole, streamed = CompletionReader(), CompletionReader()
    with suppress(Malformed):
        whole.add_whole(document)
    with suppress(Malformed):
        streamed.add(document)
    for reader in (whole, streamed):
        with suppress(ModelCallFailed):
            assert isinstance(reader.reply().text, str)
    read_usage(document)


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 100_000, "1" * 10_000, b"\xff\xfe"])
def test_what_is_not_json_is_malformed(text: str | bytes) -> None:
    """Broken, infinite, endlessly nested and endlessly long values are all refused alike."""
    with pytest.raises(Malformed):
        parse_json(text)


def test_a_character_cut_in_two_is_put_together() -> None:
    """Surrogate halves that arrive in two chunks become their character; a lone half is replaced."""
    streamed = CompletionReader()
    for half in ("a \ud83c", "\udf88 b", "\ud800"):
        streamed.add({"choices": [{"delta": {"content": half}}]})
    streamed.add({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert streamed.reply().text == "a 🎈 b\ufffd"


def test_content_in_parts_is_joined() -> None:
    """Servers that send content as a list of parts are understood."""
    message = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    whole = CompletionReader()
    whole.add_whole({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert whole.reply().text == "ab"
