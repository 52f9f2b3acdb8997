"""`/v1/runs/{run_id}`: a run as it stands, and its cancellation."""

from typing import Annotated

from fastapi import Query, Request, Response

from service.tenants.values import Scope
from service.web.callers import RoomsOfService, RunsOfCaller
from service.web.doors import open_router
from service.web.paths import RunIdInPath
from service.web.preferences import LONGEST_WAIT_S, has_already
from service.web.runs.shapes import ShownRun
from service.web.runs.showing import show_run
from service.web.runs.waiting import wait_for_end

router = open_router(Scope.RUNS, tag="runs")


@router.get(
    "/v1/runs/{run_id}",
    summary="Show a run",
    response_model=ShownRun,
    responses={304: {"description": "Nothing has happened since the entity tag in `if-none-match`."}},
)
async def show(
    *,
    run_id: RunIdInPath,
    request: Request,
    response: Response,
    rooms: RoomsOfService,
    runs: RunsOfCaller,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for its end.", allow_inf_nan=False)
    ] = 0,
) -> ShownRun | Response:
    """As it stands; with `wait`, as soon as it has ended. The entity tag changes when anything shown does."""
    if wait:
        await wait_for_end(runs, run_id, wait, rooms.drain)
    seq, _ = await runs.rooms.journal.last_seq(run_id)
    etag = f'W/"{seq}"'
    if has_already(request, etag):
        return Response(status_code=304, headers={"etag": etag})
    response.headers["etag"] = etag
    return await show_run(runs, run_id)


@router.post("/v1/runs/{run_id}/cancel", status_code=202, summary="Cancel a run")
async def cancel(run_id: RunIdInPath, runs: RunsOfCaller) -> ShownRun:
    """It ends with what it has. Idempotent: a run that has ended stays as it is."""
    await runs.cancel(run_id)
    return await show_run(runs, run_id)
