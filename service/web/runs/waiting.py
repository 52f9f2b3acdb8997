"""Waiting for a run to end, as long as a request may."""

from service.ids import RunId
from service.runs.runs import Runs
from service.web.rooms import Drain


async def wait_for_end(runs: Runs, run_id: RunId, seconds: float, drain: Drain) -> bool:
    """Whether the run has ended. It comes back early when this replica is about to leave.

    Raises:
        NotFound
    """
    return await runs.rooms.journal.wait_for_end(run_id, at_most_s=seconds, unless=lambda: drain.has_begun)
