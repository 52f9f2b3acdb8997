"""Cells that are run in a session directly: as one JSON result, or as events while they run."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from fastapi import Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.responses import JSONResponse

from service.ids import RunId, SessionId, new_id
from service.models.catalog import UnknownModel, UnpricedModel
from service.models.providers import MissingApiKey
from service.runs.runs import Runs
from service.runs.session_use.values import CellDone, Elsewhere, Printed, Silence
from service.tenants.errors import ModelNotAllowed
from service.tenants.values import Caller, Scope
from service.web.callers import CallerOfRequest, RoomsOfService, RunsOfCaller
from service.web.doors import open_router
from service.web.idempotency import REPLAYED, IdempotencyKey, once
from service.web.openapi.payloads import streamed_too
from service.web.openapi.refusals import refused_with
from service.web.paths import SessionIdInPath
from service.web.preferences import wants_events
from service.web.sessions.cell_shapes import CellGiven, ElsewhereShown, PrintedShown, ShownCell, shown_cell
from service.web.sessions.shapes import ShownSession, shown_session
from service.web.sessions.uses import SessionUses, SessionUsesOfCaller

router = open_router(Scope.SESSIONS, tag="sessions")

_ELSEWHERE = "the cell runs on another replica: what it prints comes with the result"
_EXAMPLE = 'event: stdout\ndata: {"text":"42\\n","missed_bytes":0}\n\n'


@router.post(
    "/v1/sessions/{session_id}/cells",
    summary="Run code in a session",
    response_model=ShownCell,
    responses={
        200: streamed_too(_EXAMPLE, "The result, or what is printed as it comes and then the result."),
        **refused_with(400, 402, 409),
    },
)
async def run_cell(
    *,
    session_id: SessionIdInPath,
    given: CellGiven,
    request: Request,
    caller: CallerOfRequest,
    rooms: RoomsOfService,
    runs: RunsOfCaller,
    uses: SessionUsesOfCaller,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answers when the cell has ended. With `Accept: text/event-stream` it answers at once: events `stdout` and
    `stderr` as the cell prints, and at last `result`. The cell goes on when the client goes away."""
    model = given.sub_model or (await uses.desk.get(session_id)).sub_model
    if model is not None:
        caller.require_model(model)
    else:
        model = await _default_model(rooms.profiles.default_sub_model, caller, runs)
    asked = replace(given.asked(caller), sub_model=model)

    async def act(target: str) -> None:
        await uses.cells.start(session_id, asked, RunId(target))

    new_target = partial(new_id, "run")
    begun = await once(runs.rooms.requests, request, caller, idempotency_key, new_target=new_target, act=act)
    run_id = RunId(begun.target)
    headers: dict[str, str] = {"x-rlm-run-id": run_id}
    if begun.was_done_before:
        headers[REPLAYED] = "true"
    if wants_events(request):
        quiet = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return EventSourceResponse(_events(uses, session_id, run_id), headers=headers | quiet)
    return JSONResponse(shown_cell(await uses.cells.done(run_id)).model_dump(), headers=headers)


@router.post(
    "/v1/sessions/{session_id}/interrupt",
    status_code=202,
    summary="Interrupt the direct cell that runs",
    responses=refused_with(400, 409),
)
async def interrupt(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> ShownSession:
    """`KeyboardInterrupt` is raised in it; what ignores that is ended. Variables stay. No effect where none runs."""
    await uses.cells.interrupt(session_id)
    return shown_session(await uses.desk.get(session_id))


@router.post("/v1/sessions/{session_id}/restart", summary="Empty the namespace", responses=refused_with(400, 409))
async def restart(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> ShownSession:
    """Ends the direct cell that runs. Variables are gone for good; files stay."""
    await uses.cells.restart(session_id)
    return shown_session(await uses.desk.get(session_id))


async def _default_model(model: str | None, caller: Caller, runs: Runs) -> str | None:
    """The operator's default, if there is one that this caller may use; a cell that asks no model needs none."""
    if model is None:
        return None
    try:
        caller.require_model(model)
        await runs.rooms.route_to(model)
    except (ModelNotAllowed, UnknownModel, UnpricedModel, MissingApiKey):
        return None
    return model


async def _events(uses: SessionUses, session_id: SessionId, run_id: RunId) -> AsyncIterator[bytes]:
    yield format_sse_event(comment=f"cell {run_id}")
    async with aclosing(uses.cells.watch(session_id, run_id)) as heard:
        async for piece in heard:
            match piece:
                case Printed():
                    data = PrintedShown(text=piece.text, missed_bytes=piece.missed_bytes)
                    yield format_sse_event(data_str=data.model_dump_json(), event=piece.stream)
                case Silence():
                    yield KEEPALIVE_COMMENT
                case Elsewhere():
                    data_str = ElsewhereShown(message=_ELSEWHERE).model_dump_json()
                    yield format_sse_event(data_str=data_str, event="elsewhere")
                case CellDone():
                    yield format_sse_event(data_str=shown_cell(piece).model_dump_json(), event="result")
