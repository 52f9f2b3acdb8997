"""`/v1/runs/{run_id}/answer`: the answer itself, of any size."""

from fastapi import Request, Response

from service.errors import NotFound
from service.journal.values import RunNotFinished
from service.loop.values import BlobRef
from service.store.errors import BlobMissing
from service.tenants.values import Scope
from service.web.byte_ranges import KeptFile
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.openapi.payloads import answered_as
from service.web.openapi.refusals import refused_with
from service.web.paths import RunIdInPath

router = open_router(Scope.RUNS, tag="runs")


@router.get(
    "/v1/runs/{run_id}/answer",
    summary="Read the answer",
    response_class=Response,
    responses=answered_as("The answer, byte for byte.", "text/plain", "application/json") | refused_with(409),
)
async def answer(run_id: RunIdInPath, request: Request, runs: RunsOfCaller) -> Response:
    """As it was submitted, streamed. `application/json` when the run had an answer schema, text otherwise."""
    view = await runs.show(run_id)
    if view.answer is None and view.stop_reason is None:
        raise RunNotFinished(f"run {run_id} is still running: wait for its end")
    if view.answer is None:
        raise NotFound(f"run {run_id} ended without an answer ({view.stop_reason})")
    return await _streamed(request, runs, view.answer)


async def _streamed(request: Request, runs: RunsOfCaller, ref: BlobRef) -> Response:
    if not await runs.rooms.blobs.has(ref.sha256):
        raise BlobMissing(f"the answer {ref.sha256} is missing from the blob store")
    return KeptFile(
        request,
        runs.rooms.blobs.path(ref.sha256),
        sha256=ref.sha256,
        media_type="application/json" if ref.media == "json" else "text/plain; charset=utf-8",
    )
