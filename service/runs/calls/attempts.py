"""What a call does next: try again, go to the next model of its list, wait for a provider, or give up. Pure.

A call has a list of routes: the model that was asked for, then its fallbacks. It makes its attempts on one route, and
when they end in `unavailable` or `rate_limited` it goes on to the next, never back. A provider whose breaker is open is
passed over like one that failed; where there is nothing left to go to the call waits for it, within its patience.
"""

import random
from dataclasses import dataclass, replace

from service.loop.values import CallOutcome

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0
PATIENCE_S = 30.0
"""How long a call waits, in all, for providers whose breaker is open. It holds no money meanwhile."""

_TRIES = {
    CallOutcome.RATE_LIMITED: 5,
    CallOutcome.UNAVAILABLE: 4,
    # These two may have been billed in full, so a second try is all they get.
    CallOutcome.TIMED_OUT: 2,
    CallOutcome.INVALID_REPLY: 2,
}
"""How many attempts a route gets in all whose latest one ended so; outcomes that are not named get one."""
_FALLS_BACK = frozenset({CallOutcome.UNAVAILABLE, CallOutcome.RATE_LIMITED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Where a call stands between its attempts."""

    routes: int
    """How many there are."""
    route: int = 0
    tries: int = 0
    """Attempts on this route."""
    attempts: int = 0
    """Attempts in all; the number of the next one."""
    waited_s: float = 0.0
    """For open breakers."""

    @property
    def on_next_route(self) -> "Course | None":
        return replace(self, route=self.route + 1, tries=0) if self.route + 1 < self.routes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """Go on with this course after a pause."""

    course: Course
    pause_s: float


def after_attempt(course: Course, outcome: CallOutcome, pause_s: float, left_s: float) -> GoOn | None:
    """What follows an attempt that ended so; None when nothing does.

    Args:
        course: with the attempt counted.
        outcome: how it ended.
        pause_s: what the provider asked for, or else the backoff.
        left_s: until the call's deadline.
    """
    if course.tries < _TRIES.get(outcome, 1) and pause_s < left_s:
        return GoOn(course=course, pause_s=pause_s)
    onward = course.on_next_route
    if outcome in _FALLS_BACK and onward is not None and left_s > 0:
        return GoOn(course=onward, pause_s=0.0)
    return None


def after_refusal(course: Course, wait_s: float, left_s: float) -> GoOn | None:
    """What follows when the route's breaker lets no call through for so long; None when nothing does."""
    if (onward := course.on_next_route) is not None:
        return GoOn(course=onward, pause_s=0.0)
    waited_s = course.waited_s + wait_s
    if waited_s > PATIENCE_S or wait_s >= left_s:
        return None
    return GoOn(course=replace(course, waited_s=waited_s), pause_s=wait_s)


def pause_after(course: Course, retry_after_s: float | None) -> float:
    """What the provider asked for; else twice as long after each try of the route, with jitter."""
    if retry_after_s is not None:
        return retry_after_s
    longest_s: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** max(course.tries - 1, 0))
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter only
