"""Variables of a session: listed, read and written as raw text or JSON. Nothing is ever unpickled."""

from typing import Annotated

from fastapi import Path, Query, Request, Response

from service.runs.session_use.contents import MAX_VALUE_BYTES
from service.tenants.values import Scope
from service.web.bodies import body_chunks, refuse_form
from service.web.byte_ranges import KeptFile
from service.web.callers import HoldingsOfCaller, RunsOfCaller
from service.web.doors import open_router
from service.web.openapi.payloads import answered_as, sent_as
from service.web.openapi.refusals import refused_with
from service.web.paths import SessionIdInPath
from service.web.sessions.shapes import ShownVariable, ValueForm, Variables
from service.web.sessions.uses import SessionUsesOfCaller
from service.web.storage_bounds import within_storage

MEDIA_OF: dict[ValueForm, str] = {"text": "text/plain; charset=utf-8", "json": "application/json"}
VariableName = Annotated[str, Path(max_length=200, examples=["answer"])]

router = open_router(Scope.SESSIONS, tag="sessions")


@router.get(
    "/v1/sessions/{session_id}/variables", summary="List the variables of a session", responses=refused_with(400, 409)
)
async def list_variables(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> Variables:
    """Their names, types and sizes."""
    found = await uses.contents.variables(session_id)
    return Variables(variables=[ShownVariable(name=each.name, type=each.type_name, size=each.size) for each in found])


@router.get(
    "/v1/sessions/{session_id}/variables/{name}",
    summary="Read a variable",
    response_class=Response,
    responses=answered_as("The value: `str()` of it, or JSON.", "text/plain", "application/json")
    | refused_with(400, 409, 413),
)
async def read_variable(
    *,
    session_id: SessionIdInPath,
    name: VariableName,
    request: Request,
    runs: RunsOfCaller,
    uses: SessionUsesOfCaller,
    form: Annotated[ValueForm, Query(alias="as")] = "json",
    limit_bytes: Annotated[int, Query(ge=1, le=MAX_VALUE_BYTES)] = MAX_VALUE_BYTES,
) -> Response:
    """`answer` is the content of `answer`."""
    value = await uses.contents.read_variable(session_id, name, as_=form, limit_bytes=limit_bytes)
    path = runs.rooms.blobs.path(value.sha256)
    return KeptFile(request, path, sha256=value.sha256, media_type=MEDIA_OF[form])


@router.put(
    "/v1/sessions/{session_id}/variables/{name}",
    status_code=204,
    summary="Write a variable",
    responses=refused_with(400, 409),
    openapi_extra=sent_as("application/json", "text/plain"),
)
async def write_variable(
    *,
    session_id: SessionIdInPath,
    name: VariableName,
    request: Request,
    uses: SessionUsesOfCaller,
    holdings: HoldingsOfCaller,
) -> None:
    """With `content-type: application/json` the body's value, else its text (UTF-8). A rebuilt session has it again."""
    refuse_form(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form: ValueForm = "json" if kind == "application/json" else "text"
    chunks = body_chunks(request, limit_bytes=MAX_VALUE_BYTES)
    chunks = within_storage(chunks, await holdings.left(), announced=request)
    await uses.contents.write_variable(session_id, name, chunks, as_=form)
