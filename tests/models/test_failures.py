"""Which outcome a provider's error is."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import CallOutcome
from service.models.failures import (
    LONGEST_RETRY_AFTER_S,
    MESSAGE_CHARS,
    classify,
    classify_streamed,
    clean,
    retry_after_s,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

TOO_LONG_MESSAGES = [
    {"error": {"code": "context_length_exceeded", "message": "…"}},
    {"error": {"message": "This model's maximum context length is 8192 tokens. However, you requested 9000"}},
    {"error": {"message": "prompt is too long: 250000 tokens > 200000 maximum"}},
    {"error": "the input exceeds the limit of 4096 tokens"},
    {"object": "error", "message": "Requested tokens (5000) exceed context window of 2048"},
    {"error": {"message": "Input length 9999 exceeds the maximum allowed length, context size 4096"}},
]


@pytest.mark.parametrize(
    ("status", "body", "outcome", "may_be_billed"),
    [
        (400, {"error": {"message": "bad parameter"}}, CallOutcome.REFUSED, False),
        (400, {"error": {"code": "content_filter", "message": "…"}}, CallOutcome.REFUSED, False),
        (400, None, CallOutcome.REFUSED, False),
        (401, None, CallOutcome.REFUSED, False),
        (402, None, CallOutcome.REFUSED, False),
        (403, {"error": {"message": "Your input was flagged"}}, CallOutcome.REFUSED, False),
        (404, {"detail": "Not Found"}, CallOutcome.REFUSED, False),
        (408, None, CallOutcome.UNAVAILABLE, False),
        (409, None, CallOutcome.UNAVAILABLE, False),
        (413, None, CallOutcome.TOO_LONG, False),
        (418, None, CallOutcome.REFUSED, False),
        (422, {"detail": [{"msg": "extra fields"}]}, CallOutcome.REFUSED, False),
        (429, {"error": {"code": "rate_limit_exceeded"}}, CallOutcome.RATE_LIMITED, False),
        (429, {"error": {"type": "insufficient_quota"}}, CallOutcome.REFUSED, False),
        (500, None, CallOutcome.UNAVAILABLE, True),
        (501, None, CallOutcome.UNAVAILABLE, False),
        (502, None, CallOutcome.UNAVAILABLE, True),
        (503, None, CallOutcome.UNAVAILABLE, False),
        (504, None, CallOutcome.UNAVAILABLE, True),
        (529, None, CallOutcome.UNAVAILABLE, False),
        *((status, None, CallOutcome.INVALID_REPLY, True) for status in (300, 301, 302, 303, 304, 307, 308)),
        (204, None, CallOutcome.INVALID_REPLY, True),
        *((400, body, CallOutcome.TOO_LONG, False) for body in TOO_LONG_MESSAGES),
    ],
)
def test_statuses(status: int, body: Any, outcome: CallOutcome, may_be_billed: bool) -> None:
    """The table of statuses and bodies: the outcome, and whether the provider may have worked."""
    failure = classify(status, {}, body, now=NOW)
    assert failure.outcome is outcome
    assert failure.may_be_billed is may_be_billed


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"error": {"code": 503, "message": "overloaded"}}, CallOutcome.UNAVAILABLE),
        ({"error": {"code": 429, "message": "slow down"}}, CallOutcome.RATE_LIMITED),
        ({"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, CallOutcome.RATE_LIMITED),
        ({"error": {"type": "server_error", "message": "…"}}, CallOutcome.UNAVAILABLE),
        ({"error": {"code": "context_length_exceeded", "message": "…"}}, CallOutcome.TOO_LONG),
        ({"error": "something"}, CallOutcome.UNAVAILABLE),
    ],
)
def test_errors_in_a_stream(body: Any, outcome: CallOutcome) -> None:
    """An error after the stream began is told by its code, and may always be billed."""
    failure = classify_streamed(body, now=NOW)
    assert failure.outcome is outcome
    assert failure.may_be_billed


def test_no_status_is_made_up() -> None:
    """An error in a reply that began well has no status but the one it gives itself, and says what it says."""
    told = classify_streamed({"error": {"type": "server_error", "message": "try later"}}, now=NOW).message
    assert told == "the provider ended its reply with an error: try later"
    assert "HTTP 503" in classify_streamed({"error": {"code": 503}}, now=NOW).message


@pytest.mark.parametrize("at", [4 * MESSAGE_CHARS - 1, 4 * MESSAGE_CHARS - 30])
def test_no_part_of_a_key_is_left_where_a_message_is_cut(at: int) -> None:
    """A key of any form is taken out whole before a long message is shortened."""
    key = "correct horse battery staple " * 2
    assert "correct" not in clean(" " * at + key, (key,))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "999999999"}, LONGEST_RETRY_AFTER_S),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 01 Mar 2126 12:00:00 GMT"}, LONGEST_RETRY_AFTER_S),
        ({"retry-after": "Sun, 99 Mar 2026 99:00:30 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, milliseconds and dates are read; everything else is None, and nothing is longer than an hour."""
    assert retry_after_s(headers, NOW) == expected


@given(st.text(max_size=60))
def test_retry_after_takes_anything(text: str) -> None:
    """No header raises, and what is read is a wait between 0 and an hour."""
    wait_s = retry_after_s({"retry-after": text}, NOW)
    assert wait_s is None or 0 <= wait_s <= LONGEST_RETRY_AFTER_S


@given(st.integers(min_value=0, max_value=3600))
def test_retry_after_dates(seconds: int) -> None:
    """A date that many seconds away is a wait of that many seconds."""
    text = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_s({"retry-after": text}, NOW) == seconds


@given(st.text(max_size=2000))
def test_clean_messages_are_short_lines(message: str) -> None:
    """Whatever a provider says becomes one printable line of bounded length."""
    line = clean(message)
    assert len(line) <= MESSAGE_CHARS
    assert line.isprintable()


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-AbCdEf0123456789AbCdEf0123456789",
        "sk-...wxyz",
        "sk-a*******************wxyz",
        "Bearer abc.def.ghi",
        "gsk_0123456789abcdefghij",
        "AIzaSyA0123456789abcdefghijklmnopqrstuv",
        "0123456789abcdef0123456789abcdef",
        "my-odd-secret",
    ],
)
def test_keys_are_never_quoted(secret: str) -> None:
    """What looks like a key, and the key itself whatever it looks like, is taken out."""
    line = clean(f"Incorrect API key provided: {secret}. Find yours at example.org.", ("my-odd-secret",))
    assert secret not in line
    assert "Incorrect API key provided" in line


def test_long_quotations_are_payload() -> None:
    """A provider that quotes the prompt in its message does not bring it into our logs."""
    prompt = "the tenant's confidential text that is long enough to matter"
    assert "confidential" not in clean(f"Invalid value: '{prompt}' for messages[0]")
    assert clean("The model `gpt-nothing` does not exist") == "The model `gpt-nothing` does not exist"
