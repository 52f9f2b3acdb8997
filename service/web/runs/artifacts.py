"""`/v1/runs/{run_id}/artifacts`: the files that the run's session offers."""

from service.loop.events import RunSubmitted
from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.paths import RunIdInPath
from service.web.sessions.shapes import Files, ShownFile
from service.web.sessions.uses import SessionUsesOfCaller

router = open_router(Scope.RUNS, tag="runs")


class Artifacts(Files):
    """What there is, and where: `/v1/sessions/{session_id}/files/{path}`."""

    session_id: str


@router.get("/v1/runs/{run_id}/artifacts", summary="List the files of a run's session")
async def artifacts(run_id: RunIdInPath, runs: RunsOfCaller, uses: SessionUsesOfCaller) -> Artifacts:
    """They are read under the session. A run whose session ended with it leaves none: submit to one of your own."""
    (first, *_) = await runs.rooms.journal.read(run_id, limit=1)
    submitted = first.event
    assert isinstance(submitted, RunSubmitted), "a journal begins with it"
    if not submitted.keeps_session:
        return Artifacts(session_id=submitted.session_id, files=[], is_complete=True)
    found = await uses.contents.files(submitted.session_id)
    files = [ShownFile(path=file.path, size_bytes=file.size_bytes) for file in found.files]
    return Artifacts(session_id=submitted.session_id, files=files, is_complete=found.is_complete)
