"""Gone: a run that is not there, and that could have been forgotten by now, is told apart from one that never was."""

from starlette.requests import Request

from service.errors import Fault, RlmServiceError
from service.ids import born_at, is_id
from service.journal.values import RunAbsent
from service.web.rooms import WebRooms

DAY_S = 86_400.0


class Gone(RlmServiceError):
    """Runs of that time are not kept any more. It does not say whether there was this one."""

    code = "gone"
    fault = Fault.CALLER


def told_of_retention(request: Request, error: RlmServiceError) -> RlmServiceError:
    """The refusal of a request for a run, as `Gone` where the run's id is older than runs are kept."""
    rooms: WebRooms = request.app.state.rooms
    run_id = request.path_params.get("run_id", "")
    if not isinstance(error, RunAbsent) or rooms.runs_kept_s is None or not is_id(run_id, "run"):
        return error
    born = born_at(run_id)
    if born is None or born >= rooms.now() - rooms.runs_kept_s:
        return error
    return Gone(f"run {run_id} is gone: runs are kept for {rooms.runs_kept_s / DAY_S:.0f} days after their end")
