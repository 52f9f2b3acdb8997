"""The host's own bound on a cell's active time, which nothing inside the sandbox can defeat.

The supervisor stops a cell that overruns, and is believed until it does not: then this does. Two measures, both taken
from outside, each with some room beyond what the supervisor was told: CPU time of everything in the sandbox, and wall
time without the samples at which a host call of the cell was in flight. One sample a second is enough, and a cell
that is done before the first costs nothing.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from service.sandboxes.port import Measured

UNSEEN_SHARE = 0.1
"""Of wall time: host calls on their way to us and back wait too, and are not in flight here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a cell may use before it has overrun."""

    active_limit_s: float
    room_s: float
    """Beyond the limit, for the supervisor to stop the cell first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What was seen of a cell from outside."""

    wall_s: float
    waited_s: float
    """With a host call in flight."""
    cpu_s: float


def overrun(use: Use, allowance: Allowance) -> str | None:
    """How a cell has overrun, in words for people; None while it has not."""
    most_s = allowance.active_limit_s + allowance.room_s
    if use.cpu_s > most_s:
        return f"its cell may be active for {allowance.active_limit_s:g} s and used {use.cpu_s:.0f} s of CPU time"
    active_s = use.wall_s - use.waited_s
    if active_s > most_s + UNSEEN_SHARE * use.wall_s:
        return f"its cell may be active for {allowance.active_limit_s:g} s and was for {active_s:.0f} s"
    return None


async def watch_cell(
    measure: Callable[[], Awaitable[Measured | None]],
    allowance: Allowance,
    is_waiting: Callable[[], bool],
    *,
    interval_s: float,
) -> str:
    """Until the cell that begins now has overrun; how. Cancelled when it ends before. `measure` is its sandbox's.

    CPU time counts from the first sample, and is read again only once the wall clock is past the limit: it takes some
    work. Only what it grows by counts, because with an ended process its time may disappear.
    """
    began = last = time.monotonic()
    waited_s = cpu_s = 0.0
    cpu_before: float | None = None
    while True:
        await anyio.sleep(interval_s)
        now = time.monotonic()
        if is_waiting():
            waited_s += now - last
        last = now
        is_due = cpu_before is None or now - began > allowance.active_limit_s
        if is_due and (measured := await measure()) is not None:
            cpu_s += 0.0 if cpu_before is None else max(0.0, measured.cpu_s - cpu_before)
            cpu_before = measured.cpu_s
        how = overrun(Use(wall_s=now - began, waited_s=waited_s, cpu_s=cpu_s), allowance)
        if how is not None:
            return how


def never_waits() -> bool:
    """Of a cell that makes no host calls."""
    return False
