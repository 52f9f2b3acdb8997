"""What the journal's scripts refuse, as errors for people. Pure."""

from service.errors import RlmServiceError
from service.ids import RunId
from service.journal.values import RunAbsent, RunAlreadyFinished
from service.store.connection import Reply
from service.store.errors import StaleEpoch


def absent(run_id: RunId) -> RunAbsent:
    return RunAbsent(f"there is no run {run_id}")


def already_finished(run_id: RunId) -> RunAlreadyFinished:
    return RunAlreadyFinished(f"run {run_id} is finished; submit a new one")


def refusal(word: Reply, run_id: RunId) -> RlmServiceError:
    """What a script that said this word instead of doing its work has refused."""
    match word:
        case b"unknown":
            return absent(run_id)
        case b"finished":
            return already_finished(run_id)
        case _:
            return taken_over(run_id)


def taken_over(run_id: RunId) -> StaleEpoch:
    return StaleEpoch(f"run {run_id} has been taken over by another replica; stop driving it")
