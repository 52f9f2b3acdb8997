"""What a call does next, decided without making any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import CallOutcome
from service.runs.calls.attempts import MAX_BACKOFF_S, PATIENCE_S, Course, after_attempt, after_refusal, pause_after

TWO = Course(routes=2)


def tried(times: int, course: Course = TWO) -> Course:
    return Course(routes=course.routes, route=course.route, tries=times, attempts=times)


@pytest.mark.parametrize(
    ("outcome", "tries", "goes_on"),
    [
        (CallOutcome.OK, 1, None),
        (CallOutcome.REFUSED, 1, None),
        (CallOutcome.TOO_LONG, 1, None),
        (CallOutcome.CANCELLED, 1, None),
        (CallOutcome.TIMED_OUT, 1, "again"),
        (CallOutcome.TIMED_OUT, 2, None),
        (CallOutcome.INVALID_REPLY, 1, "again"),
        (CallOutcome.INVALID_REPLY, 2, None),
        (CallOutcome.UNAVAILABLE, 3, "again"),
        (CallOutcome.UNAVAILABLE, 4, "onward"),
        (CallOutcome.RATE_LIMITED, 4, "again"),
        (CallOutcome.RATE_LIMITED, 5, "onward"),
    ],
)
def test_what_follows_an_attempt(outcome: CallOutcome, tries: int, goes_on: str | None) -> None:
    """What may pass is tried again; a provider that is down or busy is left for the next model; the rest is final."""
    onward = after_attempt(tried(tries), outcome, pause_s=1.0, left_s=100.0)
    match goes_on:
        case None:
            assert onward is None
        case "again":
            assert onward is not None
            assert (onward.course.route, onward.pause_s) == (0, 1.0)
        case _:
            assert onward is not None
            assert (onward.course.route, onward.course.tries, onward.pause_s) == (1, 0, 0.0)
            assert onward.course.attempts == tries


def test_a_wait_beyond_the_deadline_is_not_waited() -> None:
    """When the provider asks for more time than there is, the next model is asked at once, or nobody."""
    onward = after_attempt(tried(1), CallOutcome.RATE_LIMITED, pause_s=60.0, left_s=30.0)
    assert onward is not None
    assert onward.course.route == 1
    assert after_attempt(tried(1, Course(routes=1)), CallOutcome.RATE_LIMITED, pause_s=60.0, left_s=30.0) is None
    assert after_attempt(tried(4), CallOutcome.UNAVAILABLE, pause_s=1.0, left_s=0.0) is None


def test_what_follows_an_open_breaker() -> None:
    """The next model if there is one, else a wait, but no longer than patience and deadline allow."""
    onward = after_refusal(TWO, 5.0, 100.0)
    assert onward is not None
    assert (onward.course.route, onward.pause_s) == (1, 0.0)
    waiting = after_refusal(Course(routes=1), 5.0, 100.0)
    assert waiting is not None
    assert (waiting.pause_s, waiting.course.waited_s) == (5.0, 5.0)
    assert after_refusal(waiting.course, PATIENCE_S - 4.0, 100.0) is None
    assert after_refusal(Course(routes=1), 5.0, 4.0) is None


@given(
    routes=st.integers(1, 4),
    events=st.lists(
        st.tuples(st.sampled_from(CallOutcome), st.floats(0, 50)) | st.tuples(st.none(), st.floats(0.01, 60)),
        min_size=60,
        max_size=60,
    ),
)
def test_every_call_comes_to_an_end(routes: int, events: list[tuple[CallOutcome | None, float]]) -> None:
    """Whatever happens, a call makes at most five attempts on each route, never goes back, and waits a bounded time."""
    course, waits = Course(routes=routes), 0.0
    for outcome, seconds in events:
        if outcome is None:
            onward = after_refusal(course, seconds, 1000.0)
            waits += 0.0 if onward is None else onward.pause_s
        else:
            course = Course(
                routes=routes,
                route=course.route,
                tries=course.tries + 1,
                attempts=course.attempts + 1,
                waited_s=course.waited_s,
            )
            onward = after_attempt(course, outcome, seconds, 1000.0)
        if onward is None:
            break
        assert onward.course.route in (course.route, course.route + 1)
        course = onward.course
    assert course.attempts <= 5 * routes
    assert course.route < routes
    assert waits <= PATIENCE_S


def test_pauses_grow_and_obey_the_provider() -> None:
    """Without a word from the provider pauses double up to their maximum; with one they are as long as it says."""
    for tries in range(1, 12):
        longest = min(MAX_BACKOFF_S, 0.5 * 2 ** (tries - 1))
        assert longest / 2 <= pause_after(tried(tries), None) <= longest
    assert pause_after(tried(1), 7.5) == 7.5
