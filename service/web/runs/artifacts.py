"""`/v1/runs/{run_id}/artifacts`: the files that the run's session offers."""

from service.loop.events import RunSubmitted
from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.openapi.refusals import refused_with
from service.web.paths import RunIdInPath
from service.web.sessions.shapes import EXAMPLE_OF_FILES, Files, ShownFile
from service.web.sessions.uses import SessionUsesOfCaller
from service.web.shapes import example

router = open_router(Scope.RUNS, tag="runs")


class Artifacts(Files):
    """What there is, and where: `/v1/sessions/{session_id}/files/{path}`."""

    model_config = example(EXAMPLE_OF_FILES | {"session_id": "ses_0198c2f0a7b87cc2b1a8f2c3d4e5f607"})

    session_id: str


@router.get(
    "/v1/runs/{run_id}/artifacts", summary="List the files of a run's session", responses=refused_with(400, 409)
)
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
