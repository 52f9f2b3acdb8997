"""Why there is no answer, once the run has ended. A run that reached a limit with an answer is not here."""

from service.errors import Fault, RlmServiceError
from service.loop.values import StopReason
from service.runs.values import RunView


class NoAnswer(RlmServiceError):
    """The run ended without an answer; `data` has the run and its stop reason."""

    code = "no_answer"
    fault = Fault.PROVIDER


class RunBudgetSpent(RlmServiceError):
    """The run's own budget was used up before there was an answer."""

    code = "run_budget_spent"
    fault = Fault.POLICY


class AnswerCancelled(RlmServiceError):
    """The run was cancelled before there was an answer."""

    code = "run_cancelled"
    fault = Fault.CALLER


def no_answer(view: RunView, message: str) -> RlmServiceError:
    """The error that a run without an answer is told as."""
    data: dict[str, str | int | None] = {"run_id": view.run_id, "stop_reason": view.stop_reason, "spent": view.spent}
    because = f": {message}" if message else ""
    match view.stop_reason:
        case StopReason.BUDGET | StopReason.TOKEN_LIMIT:
            return RunBudgetSpent(f"the run's budget was spent before it had an answer{because}", data=data)
        case StopReason.CANCELLED:
            return AnswerCancelled("the run was cancelled before it had an answer", data=data)
        case _:
            return NoAnswer(f"the run ended without an answer ({view.stop_reason}){because}", data=data)
