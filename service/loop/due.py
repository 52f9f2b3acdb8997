"""Which event answers which command: what `machine` does when it folds, as a question for those who compare runs."""

from service.loop.commands import AskRoot, BindHistory, Command, Finish, ReadVariable, RebuildNamespace, RunCell
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    NamespaceRebuilt,
    RootUnavailable,
    RunFinished,
    ValueRead,
)
from service.loop.values import CallOutcome


def answers(due: Command | None, event: Event) -> bool:
    """Whether the event is the answer to the due command."""
    match due, event:
        case AskRoot(), CallFinished(outcome=CallOutcome.OK, origin=None) | RootUnavailable():
            return due.purpose is event.purpose
        case RunCell() | BindHistory(), CellFinished(result=result):
            return due.cell_id == result.cell_id
        case ReadVariable(), ValueRead():
            return due.variable == event.variable
        case RebuildNamespace(), NamespaceRebuilt():
            return True
        case Finish(), RunFinished():
            return True
        case ((AskRoot() | RunCell() | BindHistory() | ReadVariable() | RebuildNamespace() | Finish() | None), _):
            return False
