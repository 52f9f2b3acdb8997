"""`/v1/sessions`, and `/v1/sessions/{session_id}` as a thing: opened, shown, changed, paused, closed."""

from typing import Annotated

from fastapi import Query, Response

from service.errors import RlmServiceError
from service.ids import SessionId, new_id
from service.tenants.values import Caller, Scope
from service.web.callers import CallerOfRequest, HoldingsOfCaller
from service.web.doors import open_router
from service.web.openapi.refusals import refused_with
from service.web.paging import cursor_after, id_behind
from service.web.paths import SessionIdInPath
from service.web.sessions.shapes import AS_USUAL, SessionGiven, SessionPage, ShownSession, shown_session
from service.web.sessions.uses import SessionUsesOfCaller
from service.web.shapes import MAX_CURSOR_CHARS

MOST_LISTED = 100

router = open_router(Scope.SESSIONS, tag="sessions")


@router.post("/v1/sessions", status_code=201, summary="Open a session")
async def open_session(
    *,
    caller: CallerOfRequest,
    uses: SessionUsesOfCaller,
    holdings: HoldingsOfCaller,
    response: Response,
    given: SessionGiven = AS_USUAL,
) -> ShownSession:
    """Its sandbox comes up with its first use. The body may be left out."""
    _check_model(given, caller)
    session_id = SessionId(new_id("ses"))
    await holdings.begin_session(session_id)
    try:
        view = await uses.desk.open(given.change(), session_id)
        await holdings.count_session(session_id)
    except RlmServiceError:
        await holdings.drop_session(session_id)
        raise
    response.headers["location"] = f"/v1/sessions/{view.session_id}"
    return shown_session(view)


@router.get("/v1/sessions", summary="List sessions")
async def list_sessions(
    uses: SessionUsesOfCaller,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> SessionPage:
    """The newest first."""
    before = None if cursor is None else SessionId(id_behind(cursor, "ses"))
    views = await uses.desk.list(limit + 1, before)
    more = len(views) > limit
    return SessionPage(
        sessions=[shown_session(view) for view in views[:limit]],
        next_cursor=cursor_after(views[limit - 1].session_id) if more else None,
    )


@router.get("/v1/sessions/{session_id}", summary="Show a session")
async def show(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> ShownSession:
    """What it is doing, and what it may spend."""
    return shown_session(await uses.desk.get(session_id))


@router.patch("/v1/sessions/{session_id}", summary="Change a session", responses=refused_with(400, 409))
async def change(
    session_id: SessionIdInPath, given: SessionGiven, caller: CallerOfRequest, uses: SessionUsesOfCaller
) -> ShownSession:
    """What is left out stays as it is."""
    _check_model(given, caller)
    return shown_session(await uses.desk.change(session_id, given.change()))


@router.post("/v1/sessions/{session_id}/pause", summary="Pause a session", responses=refused_with(400, 409))
async def pause(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> ShownSession:
    """It gives its sandbox up and takes no work. Variables and files come back with the first use after `resume`."""
    return shown_session(await uses.desk.pause(session_id))


@router.post("/v1/sessions/{session_id}/resume", summary="Resume a session", responses=refused_with(400, 409))
async def resume(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> ShownSession:
    """It takes work again; its sandbox comes up with the next use."""
    return shown_session(await uses.desk.resume(session_id))


@router.delete("/v1/sessions/{session_id}", status_code=204, summary="Close a session")
async def close(session_id: SessionIdInPath, uses: SessionUsesOfCaller, holdings: HoldingsOfCaller) -> None:
    """For good. A run that is in it goes on to its end, which is not waited for. Its record stays."""
    await uses.desk.close(session_id)
    await holdings.drop_session(session_id)


def _check_model(given: SessionGiven, caller: Caller) -> None:
    if given.sub_model is not None:
        caller.require_model(given.sub_model)
