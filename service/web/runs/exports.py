"""`/v1/runs/{run_id}/export` and `/v1/runs:import`: a run as one file, and from one."""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from service.contexts.values import Context
from service.runs.exports.exporting import export_lines, find_export
from service.runs.exports.importing import Importer, import_run
from service.runs.exports.lines import MOST_HELD_BYTES
from service.runs.exports.reading import LARGEST_EXPORT_BYTES
from service.tenants.values import Scope
from service.web.bodies import UnsupportedMediaType, body_chunks
from service.web.callers import CallerOfRequest, HoldingsOfCaller, RunsOfCaller
from service.web.doors import open_router
from service.web.inbound import InboundShare
from service.web.openapi.payloads import JSON_LINES, in_lines
from service.web.openapi.refusals import refused_with
from service.web.paths import RunIdInPath
from service.web.runs.shapes import ShownRun
from service.web.runs.showing import show_run

router = open_router(Scope.RUNS, tag="runs")

INLINE_BYTES = 64 << 20
_EXAMPLE = (
    '{"line":"export","format":"rlm-run/1",'
    '"run_id":"run_0198c2f0a7b87cc2b1a8f2c3d4e5f607","random_seed":1,"hash_seed":2}\n'
)


@router.get(
    "/v1/runs/{run_id}/export",
    summary="Export a run to import it elsewhere",
    response_class=Response,
    responses={
        200: {"description": "One JSON object a line.", "content": in_lines(_EXAMPLE)},
        **refused_with(409),
    },
)
async def export(
    run_id: RunIdInPath,
    runs: RunsOfCaller,
    inline_bytes: Annotated[
        int, Query(ge=0, le=LARGEST_EXPORT_BYTES // 2, description="Contexts beyond this are left out, and named.")
    ] = INLINE_BYTES,
) -> Response:
    """Everything that replays or forks the run elsewhere: events, cells, contexts and what they refer to. It holds the
    contexts in the clear."""
    found = await find_export(runs.rooms, run_id)
    return StreamingResponse(
        export_lines(runs.rooms, found, inline_bytes=inline_bytes),
        media_type=JSON_LINES,
        headers={"content-disposition": f'attachment; filename="{run_id}.export.jsonl"'},
    )


@router.post(
    "/v1/runs:import",
    status_code=201,
    summary="Import a run",
    responses=refused_with(402, 404),
    openapi_extra={"requestBody": {"required": True, "content": in_lines(_EXAMPLE)}},
)
async def import_(
    request: Request, response: Response, caller: CallerOfRequest, runs: RunsOfCaller, holdings: HoldingsOfCaller
) -> ShownRun:
    """The body is an export. The run is there as a finished one, under a new id, with contexts of its own; nothing is
    run and nothing is paid. A payload that the export leaves out must have been stored as a context before."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON_LINES:
        raise UnsupportedMediaType(f"send the export with content-type: {JSON_LINES}")
    since = time.time()

    async def keep(context: Context) -> None:
        await holdings.keep_context(context, since=since)

    importer = Importer(
        keep=keep, keep_run=holdings.keep_in_run, key_id=caller.key.id, key_ancestors=caller.key.ancestors
    )
    with request.app.state.inbound.share(caller.tenant.id) as share:
        chunks = _held(share, body_chunks(request, limit_bytes=LARGEST_EXPORT_BYTES))
        run_id = await import_run(runs.rooms, chunks, importer)
    response.headers["location"] = f"/v1/runs/{run_id}"
    return await show_run(runs, run_id)


async def _held(share: InboundShare, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, held as they come, up to what reading an export holds at most. Raises `ReplicaBusy`."""
    async for chunk in chunks:
        share.hold(min(len(chunk), MOST_HELD_BYTES - share.held_bytes))
        yield chunk
