"""`/v1/runs/{run_id}/events`: the run's journal, as a stream of server-sent events or page by page."""

from typing import Annotated, Any

from fastapi import Header, Query, Request, Response
from fastapi.sse import EventSourceResponse
from pydantic import Field

from service.errors import BadRequest
from service.journal.values import Recorded
from service.loop.events import RunFinished
from service.tenants.values import Scope
from service.web.callers import RoomsOfService, RunsOfCaller
from service.web.doors import open_router
from service.web.event_streams import event_json, follow
from service.web.openapi.payloads import streamed_too
from service.web.paths import RunIdInPath
from service.web.preferences import wants_events
from service.web.runs.shapes import MAX_SEQ
from service.web.shapes import Shown, example

MOST_EVENTS = 500
_EXAMPLE = 'id: 7\nevent: CancelRequested\ndata: {"seq":7,"type":"CancelRequested","at":1763640020.2}\n\n'

router = open_router(Scope.RUNS, tag="runs")


class EventPage(Shown):
    """Events of a run, in order. Each has `seq`, `type`, `at` (Unix seconds) and what its type says."""

    model_config = example(
        {
            "events": [{"seq": 7, "type": "CancelRequested", "at": 1763640020.2}],
            "next_after": 7,
            "is_complete": False,
        }
    )

    events: list[dict[str, Any]]
    next_after: int = Field(description="`after` of the next page.")
    is_complete: bool = Field(description="Whether the run has ended and no event is behind these.")


@router.get(
    "/v1/runs/{run_id}/events",
    summary="Follow a run, or read its events",
    response_model=EventPage,
    responses={
        200: streamed_too(_EXAMPLE, "A page, or the events as they come."),
        204: {"description": "The run has ended and there is no event behind this one: a stream need not come back."},
    },
)
async def events(
    *,
    run_id: RunIdInPath,
    request: Request,
    rooms: RoomsOfService,
    runs: RunsOfCaller,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events behind this `seq`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_EVENTS, description="Of a page; a stream has no limit.")] = 100,
    last_event_id: Annotated[
        str | None, Header(max_length=20, description="As `after`; what an interrupted stream sends by itself.")
    ] = None,
) -> Response:
    """With `Accept: text/event-stream` a stream: the event's `seq` is the id, its type the name, and after a broken
    connection it goes on behind `Last-Event-ID`. Otherwise a page of what there is."""
    journal = runs.rooms.journal
    seq, has_finished = await journal.last_seq(run_id)
    if wants_events(request):
        begin = after if last_event_id is None else _seq_of(last_event_id)
        if has_finished and last_event_id is not None and begin > seq:
            raise _no_such_event()
        if has_finished and begin >= seq:
            return Response(status_code=204)
        return EventSourceResponse(
            follow(journal, run_id, begin, rooms.drain),
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
    return _page(await journal.read(run_id, after, limit), after, has_finished=has_finished)


def _seq_of(last_event_id: str) -> int:
    if not last_event_id.isascii() or not last_event_id.isdecimal() or int(last_event_id) > MAX_SEQ:
        raise _no_such_event()
    return int(last_event_id)


def _no_such_event() -> BadRequest:
    return BadRequest("Last-Event-ID must be the id of an event of this run", data={"param": "last-event-id"})


def _page(recorded: list[Recorded], after: int, *, has_finished: bool) -> Response:
    """`has_finished` was asked before the events were read: nothing can follow an empty page of such a run."""
    is_complete = isinstance(recorded[-1].event, RunFinished) if recorded else has_finished
    body = b'{"events":[%s],"next_after":%d,"is_complete":%s}' % (
        b",".join(event_json(entry) for entry in recorded),
        recorded[-1].seq if recorded else after,
        b"true" if is_complete else b"false",
    )
    return Response(body, media_type="application/json")
