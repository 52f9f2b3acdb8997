"""`/v1/runs`: submit a run."""

from fastapi import Response

from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RunsOfCaller
from service.web.doors import open_router
from service.web.runs.shapes import RunSubmission, ShownRun
from service.web.runs.showing import show_run

router = open_router(Scope.RUNS, tag="runs")


@router.post("/v1/runs", status_code=202, summary="Submit a run")
async def submit(
    submission: RunSubmission, caller: CallerOfRequest, runs: RunsOfCaller, response: Response
) -> ShownRun:
    """It is driven at once; follow it by its events, or ask again."""
    request = submission.request(caller.key.id)
    for model in dict.fromkeys((request.root_model, request.sub_model)):
        caller.require_model(model)
    run_id = await runs.submit(request)
    runs.start(run_id)
    response.headers["location"] = f"/v1/runs/{run_id}"
    return await show_run(runs, run_id)
