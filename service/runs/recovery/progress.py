"""Progress: whether a run that is taken over again and again comes any further by it. Pure.

A run whose own doing ends the replicas that drive it, or whose journal no replica here can work with, must not go from
one to the next for ever.
"""

from collections.abc import Sequence

from service.errors import Fault, RlmServiceError
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    HostCallAnswered,
    RootUnavailable,
    RunTakenOver,
    ValueRead,
)
from service.loop.values import CallOutcome

MOST_IN_VAIN = 20
"""Take-overs in a row after which nothing came of the run."""


class RunStalled(RlmServiceError):
    """The run was taken over often enough without coming any further; it is ended instead."""

    code = "run_stalled"
    fault = Fault.PLATFORM


def take_overs_in_vain(events: Sequence[Event]) -> int:
    """How often in a row, up to now, the run was taken over without anything having come of it."""
    count = 0
    for event in reversed(events):
        match event:
            case RunTakenOver():
                count += 1
            case CallFinished(outcome=CallOutcome.OK) | CellFinished() | HostCallAnswered():
                break
            case ValueRead() | RootUnavailable():
                break
            case _:
                pass
    return count


def check_progress(events: Sequence[Event]) -> None:
    """Raises `RunStalled` when there is none."""
    count = take_overs_in_vain(events)
    if count >= MOST_IN_VAIN:
        raise RunStalled(f"the run was taken over {count} times without coming any further: it is given up")
