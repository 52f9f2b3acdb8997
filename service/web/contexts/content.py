"""What contexts consist of: their bytes, whole or in part, and whether bytes are stored at all."""

from typing import Annotated

from fastapi import Path, Query, Request, Response

from service.contexts.values import Context, Part
from service.errors import BadRequest, NotFound
from service.store.errors import BlobMissing
from service.tenants.values import Scope
from service.web.byte_ranges import KeptFile
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.openapi.payloads import answered_as
from service.web.openapi.refusals import refused_with
from service.web.paths import ContextIdInPath
from service.web.patterns import SHA256
from service.web.shapes import MAX_NAME_CHARS

MEDIA_OF = {
    "text": "text/plain; charset=utf-8",
    "named_texts": "text/plain; charset=utf-8",
    "json": "application/json",
    "json_lines": "application/x-ndjson",
}

router = open_router(Scope.CONTEXTS, tag="contexts")


@router.get(
    "/v1/contexts/{context_id}/content",
    summary="Read a context",
    response_class=Response,
    responses=answered_as("The bytes.", "text/plain", "application/json", "application/x-ndjson") | refused_with(409),
)
async def content(
    context_id: ContextIdInPath,
    request: Request,
    runs: RunsOfCaller,
    part: Annotated[
        str | None, Query(min_length=1, max_length=MAX_NAME_CHARS, description="Of a context with several parts.")
    ] = None,
) -> Response:
    """As it was stored, of any size, streamed."""
    context = await runs.rooms.contexts.get(context_id)
    kept = _part(context, part)
    if not await runs.rooms.blobs.has(kept.sha256):
        raise BlobMissing(f"the content {kept.sha256} of context {context_id} is missing from the blob store")
    return KeptFile(
        request,
        runs.rooms.blobs.path(kept.sha256),
        sha256=kept.sha256,
        media_type=MEDIA_OF[context.kind],
        headers={"x-content-type-options": "nosniff"},
    )


@router.head("/v1/blobs/sha256:{digest}", response_class=Response, summary="Ask whether bytes are stored")
async def is_stored(
    digest: Annotated[str, Path(pattern=SHA256, examples=["9f86d081884c7d659a2feaa0c55ad015" * 2])],
    runs: RunsOfCaller,
) -> Response:
    """200 when your tenant has stored them, so that an upload announced with this `sha256` need not send them. What
    others have stored nobody is told."""
    if not await runs.rooms.uploads.holds(digest):
        raise NotFound("your tenant has stored nothing of this digest")
    return Response()


def _part(context: Context, name: str | None) -> Part:
    if name is None and len(context.parts) == 1:
        return context.parts[0]
    if name is None:
        raise BadRequest(f"this context has {len(context.parts)} parts: say which", data={"param": "part"})
    found = next((part for part in context.parts if part.name == name), None)
    if found is None:
        raise NotFound("this context has no part of that name")
    return found
