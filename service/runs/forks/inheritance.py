"""What a fork inherits: the events of the turns before its own, as they come out under its own first event. Pure.

Both runs are folded side by side. What answered the source's due command must answer the fork's too; where it does not
(another model's window would have led to a compaction, say), the fork would have gone another way by then, and is
refused. Then nobody can tell a fork from a run that has come to this turn by itself, except by its costs.

What a cell's host calls were answered may stand far behind the cell's own end: a batch that was cut off with its cell
is recorded when its calls in flight have come back. It belongs to the cell, and is inherited with it.
"""

from collections.abc import Sequence

from service.errors import BadRequest
from service.loop.commands import AskRoot
from service.loop.due import answers
from service.loop.events import CellFinished, Event, HostCallAnswered, NamespaceRebuilt, RunSubmitted
from service.loop.machine import decide, evolve
from service.loop.state import RunState
from service.loop.values import Purpose
from service.runs.copies.renaming import Renaming

MAX_INHERITED_EVENTS = 20_000
"""They are kept in one step, so there is a most."""


def inherited_events(source: Sequence[Event], fork: RunSubmitted, from_turn: int) -> list[Event]:
    """The events that stand between the fork's first and its turn `from_turn`.

    Raises:
        BadRequest: the source has no such turn, or the fork would not have come to it.
    """
    first = source[0]
    assert isinstance(first, RunSubmitted), "a journal begins with it"
    renaming = Renaming(source=first.run_id, target=fork.run_id)
    theirs, ours = evolve(None, first), evolve(None, fork)
    inherited: list[Event] = []
    for place, event in enumerate(source[1:], start=1):
        if _is_at(ours, from_turn):
            inherited += _answered_late(source[place:], inherited, renaming, at=fork.at)
            break
        was_due = answers(decide(theirs), event)
        theirs = evolve(theirs, event)
        if not was_due and not isinstance(event, HostCallAnswered | NamespaceRebuilt):
            continue
        copy = renaming.event(event, at=fork.at, number=len(inherited) + 1)
        if copy is None:
            continue
        if was_due and not answers(decide(ours), copy):
            raise _refused(ours, from_turn)
        ours = evolve(ours, copy)
        inherited.append(copy)
    if not _is_at(ours, from_turn):
        raise _refused(ours, from_turn)
    if len(inherited) > MAX_INHERITED_EVENTS:
        raise BadRequest(
            f"the turns before turn {from_turn} have {len(inherited)} events, a fork inherits at most "
            f"{MAX_INHERITED_EVENTS}: fork from an earlier turn"
        )
    return inherited


def _answered_late(
    behind: Sequence[Event], inherited: Sequence[Event], renaming: Renaming, *, at: float
) -> list[Event]:
    """What host calls of inherited cells were answered behind the last inherited turn; no turn's state knows of it."""
    cells = {event.result.cell_id for event in inherited if isinstance(event, CellFinished)}
    late = (
        renaming.event(event, at=at, number=0)  # only calls are numbered
        for event in behind
        if isinstance(event, HostCallAnswered) and renaming.cell(event.key.cell_id) in cells
    )
    return [copy for copy in late if copy is not None]


def _is_at(state: RunState, turn: int) -> bool:
    due = decide(state)
    return isinstance(due, AskRoot) and due.purpose is Purpose.TURN and due.turn == turn


def _refused(state: RunState, from_turn: int) -> BadRequest:
    return BadRequest(
        f"the fork cannot begin with turn {from_turn}: the run has no more turns, or would have gone another way under "
        f"these overrides; it can begin with turn {max(1, state.turn.number)} or an earlier one",
        data={"param": "from_turn"},
    )
