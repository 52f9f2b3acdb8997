"""Submitting: looks up what a request names, and lets `submission` make the first event of it."""

import secrets
from collections.abc import Sequence

from service.contexts.values import Context
from service.ids import RunId, SessionId, new_id
from service.journal.values import SessionRecord
from service.loop.events import RunSubmitted
from service.loop.packs import read_pack
from service.runs.rooms import RunsRooms
from service.runs.submission.first_event import Family, Submission, first_event
from service.runs.values import RunRequest


async def submitted_event(
    rooms: RunsRooms,
    request: RunRequest,
    session_id: SessionId,
    *,
    run_id: RunId,
    family: Family | None = None,
    prepared: Sequence[Context] = (),
) -> RunSubmitted:
    """The first event of a new run. Nothing is written. `prepared` are contexts of it that are not kept yet.

    Raises:
        BadRequest, NotFound, UnknownModel, UnpricedModel, MissingApiKey: what the request asks for cannot be.
    """
    known = {context.context_id: context for context in prepared}
    named = [binding.context_id for binding in request.contexts]
    contexts = tuple([known.get(each) or await rooms.contexts.get(each) for each in named])
    return first_event(
        request,
        Submission(
            run_id=run_id,
            session_id=session_id,
            contexts=contexts,
            root_route=await rooms.route_to(request.root_model),
            sub_route=await rooms.route_to(request.sub_model),
            pack=rooms.packs.get(request.prompt_pack) or read_pack(request.prompt_pack),
            at=rooms.now(),
            on_divergence=request.on_divergence or rooms.on_divergence,
            family=family,
        ),
    )


async def keep_named(rooms: RunsRooms, request: RunRequest) -> None:
    """Keep what came along with a conversation, and is named by whoever asks for a run himself, from now on.
    Idempotent. For a run that can be and is about to be journalled: there is none without what it was to be about."""
    if request.keeps_contexts and request.contexts:
        await rooms.contexts.lives.make_lasting([binding.context_id for binding in request.contexts])


async def new_session(rooms: RunsRooms) -> SessionId:
    """A session's record, before it has a sandbox."""
    session_id = SessionId(new_id("ses"))
    await keep_session(rooms, session_id)
    return session_id


async def keep_session(rooms: RunsRooms, session_id: SessionId) -> None:
    """Keep the record of a new session under this id. Idempotent."""
    await rooms.session.records.create(
        SessionRecord(session_id=session_id, created_at=rooms.now(), random_seed=secrets.randbits(48))
    )
