"""The use case: fork a run. Nothing of the source changes; it may be running still."""

from dataclasses import replace
from typing import Any

import anyio.to_thread

from service.errors import BadRequest
from service.ids import RunId, new_id, own_session_of
from service.loop.events import CellFinished, RunSubmitted
from service.loop.values import ForkedFrom
from service.runs.copies.cell_logs import copy_session, log_until
from service.runs.copies.renaming import Renaming
from service.runs.forks.inheritance import inherited_events
from service.runs.forks.values import ForkRequest
from service.runs.runs import Runs
from service.runs.submission.first_event import check_request
from service.runs.submitting import keep_named, submitted_event
from service.runs.values import RunRequest


async def fork(runs: Runs, source_id: RunId, asked: ForkRequest, run_id: RunId | None = None) -> RunId:
    """Check, price and journal the fork, which then waits for `Runs.start`.

    Its session is its own and ends with it: the sandbox is rebuilt from the copied log, with recorded host calls, when
    the fork is driven. `run_id` is the id that it shall have, where that was decided before.

    Raises:
        NotFound: there is no such run, or a context of it is gone.
        BadRequest: it cannot be forked, or not from this turn.
        Whatever else `Runs.submit` raises.
    """
    rooms = runs.rooms
    events = [recorded.event for recorded in await rooms.events_of(source_id)]
    source = events[0]
    assert isinstance(source, RunSubmitted), "a journal begins with it"
    request = fork_request(source, asked)
    # As if it ran in the source's session: what it is about may stand there already.
    await anyio.to_thread.run_sync(check_request, replace(request, session_id=source.session_id))
    rooms.slots.check(request.limits.depth + 1)
    await rooms.provider.isolation()
    target = run_id or RunId(new_id("run"))
    submitted = await submitted_event(rooms, request, own_session_of(target), run_id=target)
    inherited = inherited_events(events, submitted, asked.from_turn)
    origin = ForkedFrom(run_id=source_id, from_turn=asked.from_turn, events=len(inherited))
    renaming = Renaming(source=source_id, target=target)
    cells = {event.result.cell_id for event in inherited if isinstance(event, CellFinished)}
    records = [renaming.record(record) for record in await rooms.session.cell_log.read(source.session_id)]

    async def prepare() -> None:
        await keep_named(rooms, request)
        await copy_session(
            rooms.session,
            source.session_id,
            submitted.session_id,
            log_until(records, target, cells),
            at=submitted.at,
            name="",
        )

    await runs.open(replace(submitted, forked_from=origin), inherited, prepare)
    return target


def fork_request(source: RunSubmitted, asked: ForkRequest) -> RunRequest:
    """What the fork would be submitted with, if it were not one. Pure.

    Raises:
        BadRequest: a run like the source cannot be forked.
    """
    if source.is_direct or source.code is not None:
        raise BadRequest("a direct call or cell has no turns to fork from: make it again")
    if source.parent_run_id is not None:
        raise BadRequest(f"run {source.run_id} is a child run: fork the run that it belongs to")
    if source.contexts and not source.bindings:
        raise BadRequest(f"run {source.run_id} is from before contexts were recorded with runs: submit it anew")
    overrides = asked.overrides
    changes: dict[str, Any] = dict(overrides.limits)
    return RunRequest(
        question=source.question,
        contexts=source.bindings,
        root_model=overrides.root_model or source.root_model,
        sub_model=overrides.sub_model or source.sub_model,
        limits=replace(source.limits, **changes),
        answer_schema=source.answer_schema,
        tools=source.tools,
        prompt_pack=overrides.prompt_pack or source.prompt.pack.partition("@")[0],
        key_id=asked.key_id,
        key_ancestors=asked.key_ancestors,
        on_divergence=source.on_divergence,
    )
