"""`/v1/uploads`: a context whose bytes come in several requests, each going on where the last one ended."""

import time
from typing import Annotated, Literal

from fastapi import Header, Request, Response
from pydantic import ConfigDict, Field, StringConstraints

from service.contexts.upload_values import Upload, UploadPlan
from service.contexts.uploads import LARGEST_BYTES
from service.runs.holdings.holdings import Holdings
from service.runs.runs import Runs
from service.tenants.errors import QuotaExceeded
from service.tenants.values import Scope
from service.web.bodies import body_chunks, refuse_form
from service.web.callers import CallerOfRequest, HoldingsOfCaller, RunsOfCaller
from service.web.contexts.shapes import Name
from service.web.digests import checked_chunks
from service.web.documents import refuse_document, text_chunks
from service.web.doors import open_router
from service.web.openapi.payloads import sent_as
from service.web.openapi.refusals import refused_with
from service.web.paths import UploadIdInPath
from service.web.patterns import SHA256
from service.web.shapes import Shape, Shown, example

UPLOAD_OFFSET = "upload-offset"

router = open_router(Scope.CONTEXTS, tag="contexts")


class UploadGiven(Shape):
    """What is to come."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "corpus.txt", "kind": "text", "size_bytes": 1_073_741_824}]}
    )

    name: Name = Field(default="context", description="For people; shown in lists.")
    kind: Literal["text", "json", "json_lines"] = Field(default="text", description="What the bytes are.")
    size_bytes: Annotated[int, Field(ge=1, le=LARGEST_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern=SHA256)] | None = Field(
        default=None, description="Of the whole, lower-case hex. What is stored already need not be sent again."
    )


class ShownUpload(Shown):
    """An upload as it stands."""

    model_config = example(
        {
            "upload_id": "upl_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "offset": 8_388_608,
            "size_bytes": 1_073_741_824,
            "context_id": None,
        }
    )

    upload_id: str
    offset: int = Field(description="Bytes that have come, and are on disk.")
    size_bytes: int
    context_id: str | None = Field(description="The context that it has become; null until all bytes came.")


@router.post("/v1/uploads", status_code=201, summary="Begin an upload")
async def begin(
    given: UploadGiven,
    caller: CallerOfRequest,
    runs: RunsOfCaller,
    holdings: HoldingsOfCaller,
    response: Response,
) -> ShownUpload:
    """Open for 24 hours after the last byte. What is stored already (`sha256`) has its `context_id` at once."""
    plan = UploadPlan(name=given.name, kind=given.kind, size_bytes=given.size_bytes, sha256=given.sha256)
    since = time.time()
    key_line = (caller.key.id, *caller.key.ancestors)
    upload = await _kept(await runs.rooms.uploads.open(plan, key_line), runs, holdings, since)
    response.headers["location"] = f"/v1/uploads/{upload.upload_id}"
    return _shown(upload, response)


@router.head("/v1/uploads/{upload_id}", summary="Ask how far an upload has come", response_class=Response)
async def how_far(upload_id: UploadIdInPath, runs: RunsOfCaller) -> Response:
    """`upload-offset` bytes are on disk, and `upload-length` are expected in all."""
    upload = await runs.rooms.uploads.get(upload_id)
    return Response(headers=_headers(upload))


@router.get("/v1/uploads/{upload_id}", summary="Show an upload")
async def show(upload_id: UploadIdInPath, runs: RunsOfCaller, response: Response) -> ShownUpload:
    """How far it has come, and until when it can go on."""
    return _shown(await runs.rooms.uploads.get(upload_id), response)


@router.patch(
    "/v1/uploads/{upload_id}",
    summary="Go on with an upload",
    responses=refused_with(409),
    openapi_extra=sent_as("application/octet-stream"),
)
async def go_on(
    *,
    upload_id: UploadIdInPath,
    request: Request,
    response: Response,
    runs: RunsOfCaller,
    holdings: HoldingsOfCaller,
    upload_offset: Annotated[int, Header(ge=0, le=LARGEST_BYTES, description="Where these bytes go.")],
) -> ShownUpload:
    """What came before the connection broke is kept. With the last byte the upload becomes a context. With
    `content-digest` (of this request's bytes) they are kept only when they arrived as they were sent."""
    refuse_form(request)
    refuse_document(request)
    chunks = checked_chunks(request, body_chunks(request, limit_bytes=LARGEST_BYTES))
    if upload_offset == 0:
        chunks = text_chunks(chunks)
    since = time.time()
    upload = await runs.rooms.uploads.add(upload_id, upload_offset, chunks)
    if upload.context_id is not None:
        upload = await _kept(upload, runs, holdings, since)
    return _shown(upload, response)


@router.delete("/v1/uploads/{upload_id}", status_code=204, summary="Give an upload up", responses=refused_with(409))
async def give_up(upload_id: UploadIdInPath, runs: RunsOfCaller) -> None:
    """What it has become stays."""
    await runs.rooms.uploads.delete(upload_id)


async def _kept(upload: Upload, runs: Runs, holdings: Holdings, since: float) -> Upload:
    """Count the upload, or what it has become. Raises `QuotaExceeded`: then it has become nothing, and is gone."""
    try:
        if upload.context_id is None:
            await holdings.keep_upload(upload)
        else:
            await holdings.keep_context(await runs.rooms.contexts.get(upload.context_id), since=since)
    except QuotaExceeded:
        await runs.rooms.uploads.delete(upload.upload_id)
        raise
    return upload


def _shown(upload: Upload, response: Response) -> ShownUpload:
    response.headers.update(_headers(upload))
    return ShownUpload(
        upload_id=upload.upload_id,
        offset=upload.offset,
        size_bytes=upload.plan.size_bytes,
        context_id=upload.context_id,
    )


def _headers(upload: Upload) -> dict[str, str]:
    return {
        UPLOAD_OFFSET: str(upload.offset),
        "upload-length": str(upload.plan.size_bytes),
        "cache-control": "no-store",
    }
