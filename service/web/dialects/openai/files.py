"""`/v1/files`: stored contexts as OpenAI's clients know files. A file's id is its context's."""

import time
from pathlib import PurePath
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request, Response

from service.contexts.detection import kind_of
from service.contexts.values import Context
from service.errors import BadRequest, NotFound
from service.ids import ContextId, is_id
from service.store.errors import BlobMissing
from service.tenants.values import Scope
from service.web.bodies import LARGEST_UPLOAD_BYTES, body_chunks
from service.web.byte_ranges import KeptFile
from service.web.callers import HoldingsOfCaller, RunsOfCaller
from service.web.dialects.parameters import context_id
from service.web.documents import text_chunks
from service.web.doors import open_router
from service.web.forms import boundary_of, form_parts
from service.web.openapi.payloads import answered_as
from service.web.openapi.refusals import refused_with
from service.web.paths import described
from service.web.shapes import MAX_CURSOR_CHARS, Shown, example
from service.web.storage_bounds import within_storage

router = open_router(Scope.CONTEXTS, tag="OpenAI dialect")

PURPOSE_BYTES = 64
PURPOSE = "user_data"
"""Of every file: what a client says of it changes nothing."""
DEFAULT_NAME = "file.txt"
LONGEST_NAME = 200

_EXAMPLE: dict[str, Any] = {
    "id": "ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "object": "file",
    "bytes": 1_048_576,
    "created_at": 1763640000,
    "filename": "tickets.txt",
    "purpose": PURPOSE,
    "status": "processed",
}


class ShownStoredFile(Shown):
    """A stored context as a file."""

    model_config = example(_EXAMPLE)

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str = PURPOSE
    status: Literal["processed"] = "processed"


class FileList(Shown):
    """Files, the newest first."""

    model_config = example(
        {"object": "list", "data": [_EXAMPLE], "has_more": False, "first_id": _EXAMPLE["id"], "last_id": _EXAMPLE["id"]}
    )

    object: Literal["list"] = "list"
    data: list[ShownStoredFile]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFile(Shown):
    """A file that was."""

    model_config = example({"id": _EXAMPLE["id"], "object": "file", "deleted": True})

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def _file_id(
    file_id: Annotated[
        str, Path(json_schema_extra=described("ctx"), examples=["ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    ],
) -> ContextId:
    if not is_id(file_id, "ctx"):
        raise NotFound(f"there is no file {file_id[:80]}")
    return ContextId(file_id)


FileIdInPath = Annotated[ContextId, Depends(_file_id)]


@router.post(
    "/v1/files",
    summary="Store a file",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "file": {"type": "string", "format": "binary"},
                            "purpose": {"type": "string"},
                        },
                        "required": ["file"],
                    },
                    "example": {"file": "The whole text.", "purpose": PURPOSE},
                }
            },
        }
    },
)
async def store_file(request: Request, runs: RunsOfCaller, holdings: HoldingsOfCaller) -> ShownStoredFile:
    """A text of any size, as it comes; `.json` and `.jsonl` become what they say. Other documents have to be
    text before they come."""
    boundary = boundary_of(request)
    stored: Context | None = None
    async for part in form_parts(body_chunks(request, limit_bytes=LARGEST_UPLOAD_BYTES), boundary):
        if part.name == "file" and stored is None:
            name = (PurePath(part.filename or DEFAULT_NAME).name or DEFAULT_NAME)[-LONGEST_NAME:]
            since = time.time()
            content = within_storage(part.content, await holdings.left())
            stored = await runs.rooms.contexts.put(name, kind_of(PurePath(name)), text_chunks(content))
            await holdings.keep_context(stored, since=since)
        elif part.name == "purpose":
            await part.text(PURPOSE_BYTES)
    if stored is None:
        raise BadRequest("the form has no part named file", data={"param": "file"})
    return shown_file(stored)


@router.get("/v1/files", summary="List files")
async def list_files(
    runs: RunsOfCaller,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    after: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> FileList:
    """Stored contexts, the newest first."""
    before = None if after is None else context_id(after, "after")
    found = await runs.rooms.contexts.list(limit + 1, before)
    shown = [shown_file(each) for each in found[:limit]]
    return FileList(
        data=shown,
        has_more=len(found) > limit,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
    )


@router.get("/v1/files/{file_id}", summary="Show a file", responses=refused_with(409))
async def show_file(file_id: FileIdInPath, runs: RunsOfCaller) -> ShownStoredFile:
    """What it is, not what is in it."""
    return shown_file(await runs.rooms.contexts.get(file_id))


@router.get(
    "/v1/files/{file_id}/content",
    summary="Read a file",
    response_class=Response,
    responses=answered_as("The bytes.", "application/octet-stream") | refused_with(400, 409),
)
async def file_content(file_id: FileIdInPath, request: Request, runs: RunsOfCaller) -> Response:
    """Byte for byte. What has several parts is read part by part: `/v1/contexts/{context_id}/content?part=NAME`."""
    context = await runs.rooms.contexts.get(file_id)
    if len(context.parts) != 1:
        raise BadRequest(
            f"{file_id} has {len(context.parts)} parts: read each at /v1/contexts/{file_id}/content?part=NAME",
            data={"param": "file_id"},
        )
    (part,) = context.parts
    if not await runs.rooms.blobs.has(part.sha256):
        raise BlobMissing(f"the content {part.sha256} is missing from the blob store")
    path = runs.rooms.blobs.path(part.sha256)
    return KeptFile(request, path, sha256=part.sha256, media_type="application/octet-stream")


@router.delete("/v1/files/{file_id}", summary="Delete a file", responses=refused_with(409))
async def delete_file(file_id: FileIdInPath, runs: RunsOfCaller, holdings: HoldingsOfCaller) -> DeletedFile:
    """Runs that have begun with it go on."""
    await runs.rooms.contexts.delete(file_id)
    await holdings.drop_context(file_id)
    return DeletedFile(id=file_id)


def shown_file(context: Context) -> ShownStoredFile:
    return ShownStoredFile(
        id=context.context_id,
        bytes=context.size_bytes,
        created_at=int(context.created_at),
        filename=context.name,
    )
