"""Files of a session's working directory: listed, put, read in whole or in part, deleted; beside running cells too."""

from typing import Annotated

from fastapi import Path, Request, Response
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import StreamingResponse

from sandbox_image.protocol import MAX_PATH_BYTES
from service.tenants.values import Scope
from service.web.bodies import body_chunks, refuse_form
from service.web.byte_ranges import content_range, part_of
from service.web.callers import HoldingsOfCaller
from service.web.digests import checked_chunks
from service.web.doors import open_router
from service.web.openapi.payloads import answered_as, sent_as
from service.web.openapi.refusals import refused_with
from service.web.paths import SessionIdInPath
from service.web.sessions.shapes import Files, ShownFile, StoredFile
from service.web.sessions.uses import SessionUsesOfCaller
from service.web.storage_bounds import within_storage

FilePath = Annotated[
    str, Path(max_length=MAX_PATH_BYTES, description="Below the working directory.", examples=["out/table.csv"])
]


class _AnyPath(Convertor[str]):
    """Starlette's own `path` knows no line ends, which a file's name may well have."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_path", _AnyPath())

router = open_router(Scope.SESSIONS, tag="sessions")


@router.get("/v1/sessions/{session_id}/files", summary="List the files of a session", responses=refused_with(400, 409))
async def list_files(session_id: SessionIdInPath, uses: SessionUsesOfCaller) -> Files:
    """Those of the working directory, with their sizes."""
    found = await uses.contents.files(session_id)
    files = [ShownFile(path=file.path, size_bytes=file.size_bytes) for file in found.files]
    return Files(files=files, is_complete=found.is_complete)


@router.get(
    "/v1/sessions/{session_id}/files/{path:any_path}",
    summary="Read a file",
    response_class=Response,
    responses=answered_as("The file.", "application/octet-stream") | refused_with(400, 409, 413),
)
async def read_file(
    session_id: SessionIdInPath, path: FilePath, request: Request, uses: SessionUsesOfCaller
) -> Response:
    """As it is now. A file that is written to while it is sent breaks the response off."""
    standing = await uses.contents.look_at_file(session_id, path)
    etag = f'"{standing.mark}"'
    part = part_of(request, standing.size_bytes, etag)
    headers = content_range(part) | {"etag": etag, "x-content-type-options": "nosniff"}
    return StreamingResponse(
        uses.contents.read_file(session_id, standing, part.first, part.end),
        status_code=206 if part.is_partial else 200,
        headers=headers,
        media_type="application/octet-stream",
    )


@router.put(
    "/v1/sessions/{session_id}/files/{path:any_path}",
    status_code=201,
    summary="Put a file",
    responses=refused_with(400, 409),
    openapi_extra=sent_as("application/octet-stream"),
)
async def put_file(
    *,
    session_id: SessionIdInPath,
    path: FilePath,
    request: Request,
    uses: SessionUsesOfCaller,
    holdings: HoldingsOfCaller,
) -> StoredFile:
    """In place of what bears its name. A rebuilt session has it again. With `content-digest` it is kept only when it
    arrived as it was sent."""
    refuse_form(request)
    chunks = checked_chunks(request, body_chunks(request, limit_bytes=None))
    chunks = within_storage(chunks, await holdings.left(), announced=request)
    stored = await uses.contents.put_file(session_id, path, chunks)
    return StoredFile(path=path, size_bytes=stored.size_bytes, sha256=stored.sha256)


@router.delete(
    "/v1/sessions/{session_id}/files/{path:any_path}",
    status_code=204,
    summary="Delete a file",
    responses=refused_with(400, 409),
)
async def delete_file(session_id: SessionIdInPath, path: FilePath, uses: SessionUsesOfCaller) -> None:
    """Idempotent."""
    await uses.contents.delete_file(session_id, path)
