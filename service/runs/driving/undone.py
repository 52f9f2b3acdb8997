"""What answers a command that was not performed, or whose kernel died of it. Pure."""

from typing import assert_never

from service.loop.commands import AskRoot, BindHistory, Command, Finish, ReadVariable, RebuildNamespace, RunCell
from service.loop.events import CellFinished, Event, NamespaceRebuilt, RootUnavailable, ValueRead
from service.loop.values import CallOutcome, CellResult, CellStatus


def not_done(command: Command, at: float) -> Event:
    """As if the command had been broken off at once: the run is being stopped."""
    match command:
        case AskRoot():
            return RootUnavailable(
                at=at, purpose=command.purpose, outcome=CallOutcome.CANCELLED, message="the run is being stopped"
            )
        case RunCell() | BindHistory():
            detail = "it was not run, because the run is being stopped"
            return CellFinished(
                at=at, result=CellResult(cell_id=command.cell_id, status=CellStatus.TIMED_OUT, detail=detail)
            )
        case ReadVariable():
            return ValueRead(at=at, variable=command.variable, outcome="failed", message="the run is being stopped")
        case RebuildNamespace():
            return NamespaceRebuilt(at=at, cells=0)
        case Finish():
            raise AssertionError("finishing is always done")
        case _:
            assert_never(command)


def killed(command: RunCell | BindHistory, detail: str) -> CellResult:
    """The namespace is lost with it."""
    return CellResult(cell_id=command.cell_id, status=CellStatus.KILLED, namespace_lost=True, detail=detail)
