"""Direct cells: runs without a root LM."""

from dataclasses import replace

from service.loop.commands import Finish, RebuildNamespace, RunCell
from service.loop.events import CancelRequested, CellFinished, NamespaceRebuilt, RunFinished, SandboxLost
from service.loop.machine import decide, evolve, is_finished, replay, wants_interrupt
from service.loop.state import RunState
from service.loop.values import AnswerSource, CellResult, CellStatus, StopReason
from service.money import NanoUSD
from tests.loop.playbook import submitted

GIVEN = replace(submitted(), code="x = 1", question="", contexts=(), wrap_up=None)


def running() -> tuple[RunState, RunCell]:
    state = replay([GIVEN])
    command = decide(state)
    assert isinstance(command, RunCell)
    return state, command


def result_of(command: RunCell, *, namespace_lost: bool = False) -> CellFinished:
    status = CellStatus.KILLED if namespace_lost else CellStatus.RAISED
    return CellFinished(
        at=1.0, result=CellResult(cell_id=command.cell_id, status=status, namespace_lost=namespace_lost)
    )


def finish_of(state: RunState) -> Finish:
    command = decide(state)
    assert isinstance(command, Finish)
    return command


def test_the_one_cell_is_run_and_nothing_else() -> None:
    """The first command runs the code; however it ends, the run is done, with no model asked and no answer."""
    state, command = running()
    assert command.code == "x = 1"
    finish = finish_of(evolve(state, result_of(command)))
    assert (finish.stop_reason, finish.answer, finish.answer_text) == (StopReason.CELL_DONE, None, None)
    finished = RunFinished(
        at=2.0,
        stop_reason=finish.stop_reason,
        answer_source=AnswerSource.PARTIAL,
        answer=None,
        spent=NanoUSD(0),
    )
    assert is_finished(evolve(evolve(state, result_of(command)), finished))


def test_a_lost_namespace_is_rebuilt_before_the_end() -> None:
    """A cell that killed its kernel leaves the session with its earlier variables."""
    state, command = running()
    state = evolve(state, result_of(command, namespace_lost=True))
    assert decide(state) == RebuildNamespace()
    state = evolve(state, NamespaceRebuilt(at=2.0, cells=1))
    assert finish_of(state).stop_reason is StopReason.CELL_DONE


def test_a_cancel_interrupts_the_cell() -> None:
    """A cancelled direct cell is broken off and ends as cancelled."""
    state, command = running()
    state = evolve(state, CancelRequested(at=1.0))
    assert wants_interrupt(state)
    assert finish_of(evolve(state, result_of(command))).stop_reason is StopReason.CANCELLED


def test_without_a_sandbox_it_ends() -> None:
    """A sandbox that is not to be had ends the run as `sandbox_lost`."""
    state, _ = running()
    assert finish_of(evolve(state, SandboxLost(at=1.0, message="none"))).stop_reason is StopReason.SANDBOX_LOST
