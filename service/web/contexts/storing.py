"""`POST /v1/contexts`: a context that comes in a JSON body, or as a stream of its bytes."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import Query, Request, Response
from pydantic_core import to_json

from service.errors import BadRequest
from service.runs.holdings.holdings import Holdings
from service.runs.runs import Runs
from service.tenants.errors import QuotaExceeded
from service.tenants.values import Scope
from service.web.bodies import LARGEST_UPLOAD_BYTES, STREAMED, body_chunks, is_json, read_shape, refuse_form
from service.web.callers import HoldingsOfCaller, RunsOfCaller
from service.web.contexts.shapes import GivenContext, ShownContext, shown_context, shown_open_context
from service.web.digests import checked_chunks
from service.web.documents import refuse_document, text_chunks
from service.web.doors import open_router
from service.web.openapi.payloads import bodies
from service.web.shapes import MAX_NAME_CHARS
from service.web.storage_bounds import within_storage

PIECE_BYTES = 1 << 20

router = open_router(Scope.CONTEXTS, tag="contexts")


@router.post(
    "/v1/contexts",
    status_code=201,
    summary="Store a context",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": GivenContext.model_json_schema()}}
            | bodies("text/plain", "application/octet-stream"),
        }
    },
)
async def store(
    *,
    request: Request,
    response: Response,
    runs: RunsOfCaller,
    holdings: HoldingsOfCaller,
    name: Annotated[
        str,
        Query(min_length=1, max_length=MAX_NAME_CHARS, description="For people. Of a stream; JSON has its own."),
    ] = "context",
    kind: Annotated[
        Literal["text", "json", "json_lines"], Query(description="What the bytes of a stream are.")
    ] = "text",
) -> ShownContext:
    """With `content-type: application/json` the body says what it is, up to 8 MB. With any other type (but that of a
    form) the body *is* the context, of any size, and streams. Storing the same content under the same name again finds
    the context that is there."""
    if is_json(request):
        _refuse_query(request)
        shown = await _store_given(runs, holdings, await read_shape(request, GivenContext))
    else:
        refuse_form(request)
        refuse_document(request)
        chunks = checked_chunks(request, body_chunks(request, limit_bytes=LARGEST_UPLOAD_BYTES))
        chunks = text_chunks(within_storage(chunks, await holdings.left(), announced=request))
        since = time.time()
        context = await runs.rooms.contexts.put(name, kind, chunks)
        shown = shown_context(await holdings.keep_context(context, since=since))
    response.headers["location"] = f"/v1/contexts/{shown.context_id}"
    return shown


def _refuse_query(request: Request) -> None:
    """Raises `BadRequest` for what only a stream has, so that nobody takes a JSON body for the context itself."""
    given = next((name for name in ("kind", "name") if name in request.query_params), None)
    if given is not None:
        raise BadRequest(
            f"{given} in the query is of a stream, and a body with content-type: application/json says itself what it "
            'is: send {"name": …, "value": …}; or send the JSON as a stream ('
            f"POST /v1/contexts?kind=json with content-type: application/octet-stream; {STREAMED})",
            data={"param": given},
        )


async def _store_given(runs: Runs, holdings: Holdings, given: GivenContext) -> ShownContext:
    rooms, since = runs.rooms, time.time()
    if given.content == "open":
        opened = await rooms.open_contexts.open(given.name)
        try:
            await holdings.count_context(opened.context_id)
        except QuotaExceeded:
            await rooms.open_contexts.delete(opened.context_id)
            raise
        return shown_open_context(opened)
    if given.content == "text":
        data = await anyio.to_thread.run_sync(given.text.encode)
        context = await rooms.contexts.put_text(given.name, _pieces(data))
    else:
        value = given.texts if given.content == "texts" else given.value
        data = await anyio.to_thread.run_sync(to_json, value)
        context = await rooms.contexts.put_json(given.name, _pieces(data))
    return shown_context(await holdings.keep_context(context, since=since))


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
