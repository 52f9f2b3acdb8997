"""`/v1/runs`: submit a run, list runs."""

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import Field

from service.ids import RunId, new_id
from service.journal.values import RunIdTaken
from service.runs.runs import Runs
from service.runs.values import RunRequest
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService, RunsOfCaller
from service.web.doors import open_router
from service.web.idempotency import REPLAYED, IdempotencyKey, once
from service.web.openapi.refusals import refused_with
from service.web.paging import cursor_after, id_behind
from service.web.preferences import preferred_wait_s
from service.web.runs.shapes import EXAMPLE_OF_RUN, RunSubmission, ShownRun, shown_run
from service.web.runs.showing import show_run
from service.web.runs.waiting import wait_for_end
from service.web.shapes import MAX_CURSOR_CHARS, Shown, example

router = open_router(Scope.RUNS, tag="runs")


class RunPage(Shown):
    """Runs, the newest first. The text of an answer is not in it."""

    model_config = example({"runs": [EXAMPLE_OF_RUN], "next_cursor": None})

    runs: list[ShownRun]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


@router.post(
    "/v1/runs",
    status_code=202,
    summary="Submit a run",
    response_model=ShownRun,
    responses={
        200: {"model": ShownRun, "description": "It was waited for (`Prefer: wait=30`) and has ended."},
        **refused_with(402, 404, 409),
    },
)
async def submit(
    *,
    submission: RunSubmission,
    request: Request,
    response: Response,
    rooms: RoomsOfService,
    caller: CallerOfRequest,
    runs: RunsOfCaller,
    idempotency_key: IdempotencyKey = None,
) -> ShownRun:
    """It is driven at once. `Prefer: wait=30` waits for its end that long, at most 60 seconds; whether it has ended or
    not is what the status says: 200 or 202."""
    asked = submission.request(caller)
    for model in dict.fromkeys((asked.root_model, asked.sub_model)):
        caller.require_model(model)
    done = await once(
        runs.rooms.requests,
        request,
        caller,
        idempotency_key,
        new_target=lambda: new_id("run"),
        act=lambda run_id: _submit(runs, asked, RunId(run_id)),
    )
    run_id = RunId(done.target)
    response.headers["location"] = f"/v1/runs/{run_id}"
    if done.was_done_before:
        response.headers[REPLAYED] = "true"
    wait_s = preferred_wait_s(request)
    if wait_s is not None:
        response.headers["preference-applied"] = f"wait={wait_s:.0f}"
        if await wait_for_end(runs, run_id, wait_s, rooms.drain):
            response.status_code = 200
    return await show_run(runs, run_id)


@router.get("/v1/runs", summary="List runs")
async def list_runs(
    runs: RunsOfCaller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> RunPage:
    """Root runs; child runs are found by their own ids."""
    before = None if cursor is None else RunId(id_behind(cursor, "run"))
    views = await runs.ls(limit + 1, before)
    more = len(views) > limit
    return RunPage(
        runs=[shown_run(view) for view in views[:limit]],
        next_cursor=cursor_after(views[limit - 1].run_id) if more else None,
    )


async def _submit(runs: Runs, asked: RunRequest, run_id: RunId) -> None:
    try:
        await runs.submit(asked, run_id)
    except RunIdTaken:
        # An earlier try got this far and could not say so. The id was made for this very request.
        return
    runs.start(run_id)
