"""A cell's active time, and what to do when it runs out.

Active time is the larger of two clocks: wall time during which no host call of the cell was in flight, and CPU time
of the kernel as the supervisor reads it. Waiting for a model costs nothing; a spinning main thread beside a
parked sub-call does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from threading import Lock
from typing import Literal


class ActiveClock:
    """Both clocks of one cell. Host calls begin and end on other threads than the one that reads."""

    def __init__(self, process_cpu_s: Callable[[], float]) -> None:
        """`process_cpu_s` reads the CPU time of the kernel; it raises `OSError` when that is gone."""
        self._process_cpu_s = process_cpu_s
        self._lock = Lock()  # keeps `_in_flight`, `_waiting_since` and `_waited` of one moment
        self._started = time.monotonic()
        self._in_flight = 0
        self._waiting_since = 0.0
        self._waited = 0.0
        self._cpu_before = self._read_cpu(0.0)
        self._cpu = 0.0

    def begin_wait(self) -> None:
        with self._lock:
            if self._in_flight == 0:
                self._waiting_since = time.monotonic()
            self._in_flight += 1

    def end_wait(self) -> None:
        with self._lock:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._waited += time.monotonic() - self._waiting_since

    def wall_s(self) -> float:
        return time.monotonic() - self._started

    def cpu_s(self) -> float:
        """The last reading stands once the kernel is gone."""
        self._cpu = self._read_cpu(self._cpu + self._cpu_before) - self._cpu_before
        return self._cpu

    def active_s(self) -> float:
        with self._lock:
            now = time.monotonic()
            waited = self._waited + (now - self._waiting_since if self._in_flight else 0.0)
        return max(now - self._started - waited, self.cpu_s())

    def _read_cpu(self, last: float) -> float:
        try:
            return self._process_cpu_s()
        except OSError:
            return last


Reason = Literal["active_limit", "wall_limit", "interrupted"]


class Act(Enum):
    """What the ladder wants done now."""

    NOTHING = "nothing"
    INTERRUPT = "interrupt"
    KILL = "kill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    active_s: float
    wall_s: float
    grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How far stopping has come: running → interrupted (once more at half the grace) → killed."""

    reason: Reason | None = None
    interrupted_at: float = 0.0
    interrupts: int = 0


def climb(ladder: Ladder, limits: Limits, *, wall_s: float, active_s: float, asked: bool) -> tuple[Ladder, Act]:
    """One look at the clocks. Pure: the caller does what is returned; after a kill it looks no more.

    The second interrupt is for the one that was swallowed where Python ignores exceptions (a finalizer, say).
    """
    if ladder.reason is None:
        reason = _reason_to_stop(limits, wall_s=wall_s, active_s=active_s, asked=asked)
        if reason is None:
            return ladder, Act.NOTHING
        return Ladder(reason=reason, interrupted_at=wall_s, interrupts=1), Act.INTERRUPT
    since = wall_s - ladder.interrupted_at
    if since >= limits.grace_s:
        return ladder, Act.KILL
    if ladder.interrupts == 1 and since >= limits.grace_s / 2:
        return replace(ladder, interrupts=2), Act.INTERRUPT
    return ladder, Act.NOTHING


def _reason_to_stop(limits: Limits, *, wall_s: float, active_s: float, asked: bool) -> Reason | None:
    if asked:
        return "interrupted"
    if active_s >= limits.active_s:
        return "active_limit"
    if wall_s >= limits.wall_s:
        return "wall_limit"
    return None


def next_look_s(ladder: Ladder, limits: Limits, *, wall_s: float, active_s: float) -> float:
    """How long nothing can change by time alone. CPU time may outrun wall time (threads), hence the cap."""
    if ladder.reason is None:
        return max(0.0, min(limits.active_s - active_s, limits.wall_s - wall_s, 1.0))
    step = limits.grace_s / 2 if ladder.interrupts == 1 else limits.grace_s
    return max(0.0, min(ladder.interrupted_at + step - wall_s, 1.0))
