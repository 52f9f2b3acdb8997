"""One cell from its request to what its result says of how it ended."""

from dataclasses import dataclass
from typing import Literal

from .capture import HeadTailRing
from .clock import Limits, Reason
from .kernel_messages import CellOutcome


@dataclass(frozen=True, slots=True)
class CellRun:
    """A cell as it is handed to the kernel."""

    cell_id: str
    code: bytes
    answer_as: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Printed:
    """The rings of a cell's output, kept until the next cell begins."""

    cell_id: str
    stdout: HeadTailRing
    stderr: HeadTailRing


def status_of(outcome: CellOutcome | None, reason: Reason | None) -> Literal["ok", "raised", "timed_out", "killed"]:
    if reason in ("active_limit", "wall_limit") and (outcome is None or outcome.status == "raised"):
        return "timed_out"
    return "killed" if outcome is None else outcome.status


def describe_stop(reason: Reason, limits: Limits) -> str:
    match reason:
        case "active_limit":
            return f"stopped after {limits.active_s:g} s of active time"
        case "wall_limit":
            return f"stopped after {limits.wall_s:g} s"
        case "interrupted":
            return "interrupted"


def describe_loss(reason: Reason | None, limits: Limits) -> str | None:
    """None when the kernel died without our doing."""
    if reason is None:
        return None
    stopped = describe_stop(reason, limits)
    return f"{stopped}; it ignored the interrupt for {limits.grace_s:g} s, so the interpreter was ended"
