"""Variables: whether what a cell did not find any more is what somebody had been told is lost.

The promise is that a namespace is rebuilt, and that what could not be brought back is told. So a `NameError` is in
order for a name that a `NamespaceRebuilt` before it called missing, or that was to be bound by a cell or run which did
not come to its end (and whose end says so); every other one is a silent loss.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from service.loop.events import CallFinished, CellFinished, Event, NamespaceRebuilt, RunFinished, RunSubmitted
from service.loop.values import CallOutcome, CellStatus, Purpose, StopReason

_CODE = re.compile(r"```repl\n(.*)\n```", re.DOTALL)
_NOT_DEFINED = re.compile(r"name '(\w+)' is not defined")


@dataclass(eq=False)
class Told:
    """What the users of a session have been told so far."""

    names: set[str] = field(default_factory=set)
    """Names that are lost."""


def silent_losses(events: Iterable[Event], told: Told, *, binds: Iterable[str] = ()) -> list[str]:
    """The names of which a run's cells did not know what had become of them, in sentences. Goes on with `told`.
    `binds` are the names that the run was to bind: if it lost its sandbox, its end says that they may not be there."""
    found: list[str] = []
    code = ""
    for event in events:
        match event:
            case RunSubmitted(code=str(direct)):
                code = direct
            case CallFinished(purpose=Purpose.TURN, outcome=CallOutcome.OK, text=text):
                fenced = _CODE.search(text)
                code = "" if fenced is None else fenced[1]
            case NamespaceRebuilt(missing=missing):
                told.names.update(missing)
            case CellFinished(result=result):
                name = None if result.raised is None else _NOT_DEFINED.search(result.raised.message)
                if name is not None and name[1] not in told.names:
                    found.append(f"{result.cell_id} lost {name[1]}, and nobody was told")
                if result.status is CellStatus.OK:
                    told.names.difference_update(_bound_by(code))
                else:
                    told.names.update(_bound_by(code))
            case RunFinished(stop_reason=StopReason.SANDBOX_LOST):
                told.names.update(binds)
    return found


def _bound_by(code: str) -> set[str]:
    """The names that code may bind."""
    nodes = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
