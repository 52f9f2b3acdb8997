"""What the audit says of losses: those that a fault or a journal explains are told from those that nothing does."""

from service.ids import CellId, RunId
from service.loop.events import CallFinished, CellFinished, Event, NamespaceRebuilt, RunFinished
from service.loop.values import AnswerSource, CallOutcome, CellResult, CellStatus, Purpose, Raised, StopReason, Usage
from service.money import NanoUSD
from tests.chaos.audit import Books, Findings, check_sandboxes
from tests.chaos.faults import Strike
from tests.chaos.variables import Told, silent_losses

RUN = RunId("r")


def end(reason: StopReason, *, at: float = 9.0) -> RunFinished:
    return RunFinished(at=at, stop_reason=reason, answer_source=AnswerSource.PARTIAL, answer=None, spent=NanoUSD(0))


def lost_at(*times: float) -> list[Books]:
    """Runs that lost their sandboxes then."""
    return [Books(run_id=RUN, events={RUN: [end(StopReason.SANDBOX_LOST, at=at)]}, entries=[]) for at in times]


def lost(books: list[Books], *strikes: Strike) -> int:
    findings = Findings()
    check_sandboxes(books, strikes, findings)
    return len(findings.lost)


def reply(code: str) -> CallFinished:
    return CallFinished(
        at=1.0,
        call_id=f"{RUN}/{hash(code)}",  # type: ignore[arg-type]
        purpose=Purpose.TURN,
        model="m",
        outcome=CallOutcome.OK,
        text=f"```repl\n{code}\n```",
        usage=Usage(),
        cost=NanoUSD(0),
    )


def cell(status: CellStatus, missed: str | None = None) -> CellFinished:
    """`missed` is the variable that it did not find."""
    raised = missed and Raised(type_name="NameError", message=f"name '{missed}' is not defined", traceback="")
    return CellFinished(at=2.0, result=CellResult(cell_id=CellId("c"), status=status, raised=raised or None))


BINDS: list[Event] = [reply("a = 1"), cell(CellStatus.OK)]
MISSES: list[Event] = [reply("print(a)"), cell(CellStatus.RAISED, "a")]


def test_one_fault_in_a_sandbox_explains_one_loss() -> None:
    """As many runs as were struck may lose their sandboxes, and not before they were struck."""
    kill = Strike("kernel killed", 1.0, 1.0)
    assert lost(lost_at(2.0), kill) == 0
    assert lost(lost_at(2.0, 3.0), kill) == 1
    assert lost(lost_at(0.5), kill) == 1
    assert lost(lost_at(2.0), Strike("store killed", 1.0, 1.0)) == 1
    assert lost(lost_at(2.0, 3.0), Strike("launcher killed", 1.0, 1.0)) == 0


def test_a_variable_that_is_gone_was_told_of() -> None:
    """A `NameError` is in order for what a rebuild called missing, and for nothing else."""
    rebuilt = NamespaceRebuilt(at=2.0, cells=1, missing=("a",))
    assert silent_losses([*BINDS, rebuilt, *MISSES], Told()) == []
    assert len(silent_losses([*BINDS, NamespaceRebuilt(at=2.0, cells=1), *MISSES], Told())) == 1
    assert len(silent_losses([*BINDS, rebuilt, *BINDS, *MISSES], Told())) == 1


def test_what_did_not_come_to_its_end_has_told_so() -> None:
    """What a killed cell, or a run without a sandbox, was to bind may be gone for whoever comes next."""
    assert silent_losses([reply("a = 1"), cell(CellStatus.KILLED), *MISSES], Told()) == []
    told = Told()
    assert silent_losses([end(StopReason.SANDBOX_LOST)], told, binds=("a",)) == []
    assert silent_losses(MISSES, told) == []
    assert len(silent_losses(MISSES, Told())) == 1
