"""The circuit breaker on a clock of its own."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.loop.values import CallOutcome
from service.models.breaker import FAILURES_TO_OPEN, FIRST_OPEN_S, MAX_OPEN_S, MOST_KEPT, PROVEN_S, Breakers

PROVIDER = "api.example.org"
SAYS_NOTHING = st.sampled_from([CallOutcome.TIMED_OUT, CallOutcome.RATE_LIMITED, CallOutcome.CANCELLED])
ANSWERED = st.sampled_from([CallOutcome.OK, CallOutcome.REFUSED, CallOutcome.TOO_LONG, CallOutcome.INVALID_REPLY])


def failing(breakers: Breakers, times: int, at: float) -> None:
    for _ in range(times):
        assert breakers.admit(PROVIDER, at) is None
        breakers.record(PROVIDER, CallOutcome.UNAVAILABLE, started=at, now=at)


def test_failures_in_a_row_open_it() -> None:
    """One failure fewer than the threshold changes nothing; the last one refuses calls, with the time to try again."""
    breakers = Breakers()
    failing(breakers, FAILURES_TO_OPEN - 1, at=10.0)
    assert breakers.retry_at(PROVIDER, 10.0) is None
    failing(breakers, 1, at=10.0)
    assert breakers.admit(PROVIDER, 10.0) == 10.0 + FIRST_OPEN_S
    assert breakers.retry_at("another", 10.0) is None
    assert PROVIDER in repr(breakers)


def test_a_good_reply_in_between_counts_anew() -> None:
    """A provider that sometimes answers is not shut off."""
    breakers = Breakers()
    for at in range(50):
        failing(breakers, FAILURES_TO_OPEN - 1, at=float(at))
        breakers.record(PROVIDER, CallOutcome.OK, started=float(at), now=float(at))


def test_one_call_probes_and_its_failure_doubles_the_wait() -> None:
    """After each wait exactly one call goes through; while it fails the waits double up to a minute."""
    breakers = Breakers()
    failing(breakers, FAILURES_TO_OPEN, at=0.0)
    now, waits = 0.0, []
    for _ in range(9):
        until = breakers.retry_at(PROVIDER, now)
        assert until is not None
        waits.append(until - now)
        now = until
        assert breakers.admit(PROVIDER, now) is None
        assert breakers.admit(PROVIDER, now) == now + PROVEN_S
        breakers.record(PROVIDER, CallOutcome.UNAVAILABLE, started=now, now=now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_slow_probe_holds_nobody_up() -> None:
    """A probe that has not failed within `PROVEN_S` lets the others through; the next failure shuts them off again."""
    breakers = Breakers()
    failing(breakers, FAILURES_TO_OPEN, at=0.0)
    assert breakers.admit(PROVIDER, 1.0) is None
    assert breakers.admit(PROVIDER, 1.0 + PROVEN_S) is None
    assert breakers.admit(PROVIDER, 1.0 + PROVEN_S) is None
    breakers.record(PROVIDER, CallOutcome.UNAVAILABLE, started=1.0 + PROVEN_S, now=4.0)
    assert breakers.retry_at(PROVIDER, 4.0) == 6.0


@pytest.mark.parametrize("phase", ["open", "half-open", "closed again"])
def test_old_failures_say_nothing(phase: str) -> None:
    """A call that began before the breaker changed does not change it again when it fails at last."""
    breakers = Breakers()
    failing(breakers, FAILURES_TO_OPEN, at=0.0)
    if phase != "open":
        breakers.admit(PROVIDER, 1.0)
    if phase == "closed again":
        breakers.admit(PROVIDER, 1.0 + PROVEN_S)
    before = breakers.retry_at(PROVIDER, 3.1)
    breakers.record(PROVIDER, CallOutcome.UNAVAILABLE, started=0.0, now=3.1)
    assert breakers.retry_at(PROVIDER, 3.1) == before


def test_failures_of_calls_from_before_a_recovery_say_nothing() -> None:
    """A provider that answered again is not shut off by what began while it was down, however many come to an end."""
    breakers = Breakers()
    failing(breakers, FAILURES_TO_OPEN, at=0.0)
    breakers.admit(PROVIDER, 1.0)
    breakers.record(PROVIDER, CallOutcome.OK, started=1.0, now=2.0)
    for _ in range(FAILURES_TO_OPEN):
        breakers.record(PROVIDER, CallOutcome.UNAVAILABLE, started=0.5, now=3.0)
    assert breakers.retry_at(PROVIDER, 3.0) is None


def test_only_so_many_providers_are_remembered() -> None:
    """However many providers fail, the table stays bounded, and healthy ones take no room in it."""
    breakers = Breakers()
    for number in range(MOST_KEPT + 10):
        breakers.record(f"troubled/{number}", CallOutcome.UNAVAILABLE, started=0.0, now=0.0)
        breakers.record(f"healthy/{number}", CallOutcome.OK, started=0.0, now=0.0)
    assert f"of {MOST_KEPT} providers" in repr(breakers)


class BreakerMachine(RuleBasedStateMachine):
    """Any calls, ending in any way at any time, keep the breaker's promises."""

    def __init__(self) -> None:
        super().__init__()
        self.breakers = Breakers()
        self.now = 0.0
        self.in_flight: list[float] = []
        self.failures_in_a_row = 0

    @rule(seconds=st.floats(0.001, 90.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_is_wanted(self) -> None:
        foreseen = self.breakers.retry_at(PROVIDER, self.now)
        refused_until = self.breakers.admit(PROVIDER, self.now)
        assert refused_until == foreseen
        if refused_until is None:
            self.in_flight.append(self.now)
        else:
            assert self.failures_in_a_row >= FAILURES_TO_OPEN

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), outcome=st.just(CallOutcome.UNAVAILABLE) | SAYS_NOTHING | ANSWERED)
    def a_call_ends(self, data: st.DataObject, outcome: CallOutcome) -> None:
        started = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        before = self.breakers.retry_at(PROVIDER, self.now)
        self.breakers.record(PROVIDER, outcome, started=started, now=self.now)
        after = self.breakers.retry_at(PROVIDER, self.now)
        if outcome is CallOutcome.UNAVAILABLE:
            self.failures_in_a_row += 1
        elif outcome in (CallOutcome.TIMED_OUT, CallOutcome.RATE_LIMITED, CallOutcome.CANCELLED):
            assert after == before
        else:
            self.failures_in_a_row = 0
            assert after is None

    @invariant()
    def a_refusal_ends_soon(self) -> None:
        until = self.breakers.retry_at(PROVIDER, self.now)
        assert until is None or self.now < until <= self.now + MAX_OPEN_S
        assert until is None or self.breakers.retry_at(PROVIDER, until) is None


TestAnyCalls = BreakerMachine.TestCase
