"""`/v1/contexts/{context_id}/parts/{name}`: the parts of an open context, streamed one by one, and its sealing."""

from functools import partial
from typing import Annotated

from fastapi import Path, Request

from service.tenants.values import Scope
from service.web.bodies import LARGEST_UPLOAD_BYTES, body_chunks, refuse_form
from service.web.callers import HoldingsOfCaller, RunsOfCaller
from service.web.contexts.shapes import ShownContext, ShownPart, shown_context, shown_part
from service.web.digests import checked_chunks
from service.web.documents import refuse_document, text_chunks
from service.web.doors import open_router
from service.web.openapi.payloads import sent_as
from service.web.openapi.refusals import refused_with
from service.web.paths import ContextIdInPath
from service.web.shapes import MAX_NAME_CHARS
from service.web.storage_bounds import within_storage

router = open_router(Scope.CONTEXTS, tag="contexts")


@router.put(
    "/v1/contexts/{context_id}/parts/{name:path}",
    summary="Put a part into an open context",
    responses=refused_with(409),
    openapi_extra=sent_as("application/octet-stream"),
)
async def put_part(
    *,
    context_id: ContextIdInPath,
    name: Annotated[str, Path(min_length=1, max_length=MAX_NAME_CHARS, examples=["src/main.py"])],
    request: Request,
    runs: RunsOfCaller,
    holdings: HoldingsOfCaller,
) -> ShownPart:
    """The body is the part: UTF-8 text of any size. A part of the same name is replaced. With `content-digest` it is
    kept only when it arrived as it was sent."""
    refuse_form(request)
    refuse_document(request)
    chunks = checked_chunks(request, body_chunks(request, limit_bytes=LARGEST_UPLOAD_BYTES))
    chunks = text_chunks(within_storage(chunks, await holdings.left(), announced=request))
    keep = partial(holdings.keep_parts, context_id)
    return shown_part(await runs.rooms.open_contexts.put_part(context_id, name, chunks, keep))


@router.post("/v1/contexts/{context_id}/seal", summary="Seal an open context", responses=refused_with(400, 409))
async def seal(context_id: ContextIdInPath, runs: RunsOfCaller, holdings: HoldingsOfCaller) -> ShownContext:
    """All parts are there: from now on runs can have it, and nothing of it changes. Idempotent."""
    keep = partial(holdings.keep_parts, context_id)
    return shown_context(await runs.rooms.open_contexts.seal(context_id, keep))
