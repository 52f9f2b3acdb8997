"""`/v1/runs/{run_id}/trajectory`: the whole of a run as JSON lines."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated

from fastapi import Query, Response
from fastapi.responses import StreamingResponse

from service.ids import RunId
from service.loop.events import RunFinished
from service.runs.runs import Runs
from service.runs.trajectories.visualizer import VisualizerLog
from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.event_streams import event_json
from service.web.openapi.payloads import JSON_LINES, in_lines
from service.web.paths import RunIdInPath
from service.web.runs.showing import answer_text

router = open_router(Scope.RUNS, tag="runs")

_EXAMPLE = '{"seq":7,"type":"CancelRequested","at":1763640020.2}\n'


class TrajectoryFormat(StrEnum):
    """How a trajectory is written."""

    NATIVE = "native"
    RLM_JSONL = "rlm-jsonl"


@router.get(
    "/v1/runs/{run_id}/trajectory",
    summary="Export a run",
    response_class=Response,
    responses={200: {"description": "One JSON object a line.", "content": in_lines(_EXAMPLE)}},
)
async def trajectory(
    run_id: RunIdInPath,
    runs: RunsOfCaller,
    format: Annotated[  # noqa: A002 -- the parameter's name in the API
        TrajectoryFormat, Query(description="`native`: the events. `rlm-jsonl`: what the reference visualizer opens.")
    ] = TrajectoryFormat.NATIVE,
) -> Response:
    """As far as the run has come. `native` has an event a line, as the event stream does."""
    await runs.rooms.journal.last_seq(run_id)
    lines = _native(runs, run_id) if format is TrajectoryFormat.NATIVE else _for_visualizer(runs, run_id)
    suffix = "" if format is TrajectoryFormat.NATIVE else ".rlm"
    return StreamingResponse(
        lines,
        media_type=JSON_LINES,
        headers={"content-disposition": f'attachment; filename="{run_id}{suffix}.jsonl"'},
    )


async def _native(runs: Runs, run_id: RunId) -> AsyncIterator[bytes]:
    async with aclosing(runs.recorded(run_id)) as recorded:
        async for entry in recorded:
            yield event_json(entry) + b"\n"


async def _for_visualizer(runs: Runs, run_id: RunId) -> AsyncIterator[bytes]:
    log = VisualizerLog()
    async with aclosing(runs.recorded(run_id)) as recorded:
        async for entry in recorded:
            lines = log.feed(entry.event)
            if isinstance(entry.event, RunFinished):
                lines += log.end(entry.event, await answer_text(runs, entry.event.answer))
            for line in lines:
                yield json.dumps(line).encode() + b"\n"
