"""`/v1/runs/{run_id}`: a run as it stands, and its cancellation."""

from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.paths import RunIdInPath
from service.web.runs.shapes import ShownRun
from service.web.runs.showing import show_run

router = open_router(Scope.RUNS, tag="runs")


@router.get("/v1/runs/{run_id}", summary="Show a run")
async def show(run_id: RunIdInPath, runs: RunsOfCaller) -> ShownRun:
    return await show_run(runs, run_id)


@router.post("/v1/runs/{run_id}/cancel", status_code=202, summary="Cancel a run")
async def cancel(run_id: RunIdInPath, runs: RunsOfCaller) -> ShownRun:
    """It ends with what it has. Idempotent: a run that has ended stays as it is."""
    await runs.cancel(run_id)
    return await show_run(runs, run_id)
