"""The codec: every event there and back, and older and newer journals."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.journal.codec import decode, encode
from service.loop.events import CancelRequested, Event, RunSubmitted, SandboxLost
from service.store.errors import StoreFailed
from tests.journal.runs import events, submitted


@given(event=events())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_every_event_comes_back_equal(event: Event) -> None:
    """Whatever an event carries, decoding what was encoded gives an equal event, on one line."""
    line = encode(event)
    assert b"\n" not in line
    # Shown, because a NaN is not equal to itself.
    assert repr(decode(line)) == repr(event)


@pytest.mark.parametrize("number", [float("inf"), float("-inf")])
def test_numbers_beyond_json_come_back(number: float) -> None:
    """An infinite time is an infinite time again."""
    assert decode(encode(CancelRequested(at=number))) == CancelRequested(at=number)


def test_a_lone_surrogate_does_not_end_a_run() -> None:
    """Text that no UTF-8 can hold is kept with the unholdable characters replaced; the rest is as it was."""
    broken = SandboxLost(at=1.0, message="before \ud800 after ö")
    assert decode(encode(broken)) == SandboxLost(at=1.0, message="before ? after ö")


def test_the_type_stands_first() -> None:
    """A line says what it is before anything else, for people and for `grep`."""
    assert encode(CancelRequested(at=1.5)) == b'{"type":"CancelRequested","at":1.5}'


def test_an_older_journal_reads() -> None:
    """Fields that a later version added take their defaults."""
    fields = json.loads(encode(submitted()))
    del fields["answer_schema"]
    del fields["key_id"]
    del fields["limits"]["empty_replies"]
    read = decode(json.dumps(fields).encode())
    assert isinstance(read, RunSubmitted)
    assert read.limits == submitted().limits
    assert read.key_id is None


def test_a_newer_journal_is_read_as_far_as_it_is_understood() -> None:
    """An unknown field is passed over, an unknown type is an error that names it."""
    assert decode(b'{"type":"CancelRequested","at":1.5,"by":"somebody"}') == CancelRequested(at=1.5)
    with pytest.raises(StoreFailed, match=r"'Teleported'.*upgrade"):
        decode(b'{"type":"Teleported","at":1.5}')


@given(
    line=st.one_of(st.binary(max_size=50), st.sampled_from([b"[]", b"{}", b'{"type":[]}', b'{"type":"RunFinished"}']))
)
def test_garbage_is_refused_as_such(line: bytes) -> None:
    """Bytes that are no event are a `StoreFailed`, whatever they are."""
    with pytest.raises(StoreFailed):
        decode(line)
