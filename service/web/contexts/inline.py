"""`POST /v1/contexts`: a context that comes in a JSON body."""

from collections.abc import AsyncIterator

import anyio.to_thread
from fastapi import Response
from pydantic_core import to_json

from service.contexts.values import Context
from service.runs.runs import Runs
from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.contexts.shapes import InlineContext, ShownContext, shown_context
from service.web.doors import open_router

PIECE_BYTES = 1 << 20

router = open_router(Scope.CONTEXTS, tag="contexts")


@router.post("/v1/contexts", status_code=201, summary="Store a context that fits into the request")
async def store_inline(given: InlineContext, runs: RunsOfCaller, response: Response) -> ShownContext:
    """Storing the same content under the same name again finds the context that is there."""
    context = await _store(runs, given)
    response.headers["location"] = f"/v1/contexts/{context.context_id}"
    return shown_context(context)


async def _store(runs: Runs, given: InlineContext) -> Context:
    contexts = runs.rooms.contexts
    if given.text is not None:
        text = given.text
        return await contexts.put_text(given.name, _pieces(await anyio.to_thread.run_sync(text.encode)))
    value = given.texts if given.texts is not None else given.value
    return await contexts.put_json(given.name, _pieces(await anyio.to_thread.run_sync(to_json, value)))


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
