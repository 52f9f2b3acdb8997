"""The circuit breaker: whether a provider that keeps failing should be asked at all. Pure but for one dictionary.

    closed       calls go through; FAILURES_TO_OPEN unavailable replies in a row open it
    open         no call goes through until its time is up; each time it opens again that takes twice as long
    half-open    one call goes through. Its failure opens again, any good reply closes. When neither came within
                 PROVEN_S the provider is at least not refusing: the breaker closes, but one failure opens it

So a short outage costs waiting, a long one costs nothing and is told at once, and neither leads to a stampede. A model
may think for minutes; that is why a half-open breaker does not wait for its probe's reply. Failures of calls that began
before the present state say nothing about it and are passed over; a good reply is good news whenever it began.

Only `unavailable` counts as a failure. A rate limit, a refusal or a broken reply comes from a provider that is there;
a call that timed out or was cancelled says more about its deadline.
"""

from dataclasses import dataclass, replace
from typing import Literal

from service.loop.values import CallOutcome

FAILURES_TO_OPEN = 5
FIRST_OPEN_S = 1.0
MAX_OPEN_S = 60.0
PROVEN_S = 2.0
MOST_KEPT = 4096
"""Providers; of more, those that changed longest ago begin anew."""

_ANSWERED = frozenset(
    {
        CallOutcome.OK,
        CallOutcome.REFUSED,
        CallOutcome.TOO_LONG,
        CallOutcome.INVALID_REPLY,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The state of one provider's breaker. A new one is closed."""

    phase: Literal["closed", "open", "half_open"] = "closed"
    since: float = 0.0
    """When it came into this phase."""
    failures: int = 0
    """In a row, while closed."""
    openings: int = 0
    """In a row, without a good reply."""

    @property
    def open_s(self) -> float:
        """How long it stays open this time."""
        return min(FIRST_OPEN_S * 2.0 ** min(max(self.openings - 1, 0), 32), MAX_OPEN_S)


def retry_at(breaker: Breaker, now: float) -> float | None:
    """When a call that is refused now may try again; None when a call would go through."""
    match breaker.phase:
        case "closed":
            return None
        case "open":
            until = breaker.since + breaker.open_s
        case "half_open":
            until = breaker.since + PROVEN_S
    return until if now < until else None


def admitted(breaker: Breaker, now: float) -> Breaker:
    """The state when a call goes through, which `retry_at` has allowed."""
    match breaker.phase:
        case "closed":
            return breaker
        case "open":
            return replace(breaker, phase="half_open", since=now)
        case "half_open":
            return replace(breaker, phase="closed", since=now, failures=FAILURES_TO_OPEN - 1)


def recorded(breaker: Breaker, outcome: CallOutcome, *, started: float, now: float) -> Breaker:
    """The state after a call that began at `started` ended so."""
    if outcome in _ANSWERED:
        return Breaker(since=now) if breaker.openings or breaker.failures else breaker
    if outcome is not CallOutcome.UNAVAILABLE or started < breaker.since or breaker.phase == "open":
        return breaker
    if breaker.phase == "closed" and breaker.failures + 1 < FAILURES_TO_OPEN:
        return replace(breaker, failures=breaker.failures + 1)
    return Breaker(phase="open", since=now, openings=breaker.openings + 1)


class Breakers:
    """One breaker for each provider."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}

    def __repr__(self) -> str:
        shut = [f"{provider} {one.phase}" for provider, one in self._breakers.items() if one.phase != "closed"]
        return f"<Breakers of {len(self._breakers)} providers{': ' if shut else ''}{', '.join(shut)}>"

    def retry_at(self, provider: str, now: float) -> float | None:
        """See `retry_at`. Asking changes nothing."""
        return retry_at(self._of(provider), now)

    def admit(self, provider: str, now: float) -> float | None:
        """Let a call through, or say when to try again."""
        refused_until = self.retry_at(provider, now)
        if refused_until is None:
            self._keep(provider, admitted(self._of(provider), now))
        return refused_until

    def record(self, provider: str, outcome: CallOutcome, *, started: float, now: float) -> None:
        """See `recorded`."""
        self._keep(provider, recorded(self._of(provider), outcome, started=started, now=now))

    def _of(self, provider: str) -> Breaker:
        return self._breakers.get(provider) or Breaker()

    def _keep(self, provider: str, breaker: Breaker) -> None:
        """One that never had a failure is as good as a new one. One that recovered is not: it knows since when."""
        if breaker == self._of(provider):
            return
        self._breakers.pop(provider, None)
        self._breakers[provider] = breaker
        if len(self._breakers) > MOST_KEPT:
            del self._breakers[next(iter(self._breakers))]
