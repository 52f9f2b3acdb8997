"""`/v1/responses`, `/v1/responses/{response_id}` and its cancellation."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Path, Query, Response
from starlette.responses import JSONResponse

from service.errors import BadRequest, RlmServiceError
from service.ids import RunId
from service.runs.answering.answering import Answering
from service.runs.answering.conversation import Conversation
from service.runs.answering.records import AskedRecords, GrowingHistory, record_of
from service.tenants.values import Scope
from service.web.callers import RoomsOfService, RunsOfCaller
from service.web.dialects.asking import RUN_ID, AnsweringOfCaller, AskerOfRequest
from service.web.dialects.openai.responses.events import ResponseTeller
from service.web.dialects.openai.responses.shapes import (
    DeletedResponse,
    ResponseRequest,
    ShownResponse,
    response_id,
    run_id_of,
)
from service.web.dialects.openai.responses.showing import Subject, answered, failed, in_progress, message_item
from service.web.dialects.parameters import DIALECT_BODY_BYTES
from service.web.dialects.reports import saved_header
from service.web.dialects.telling import awaited_answer, followed, streamed, whole_answer
from service.web.doors import open_router
from service.web.openapi.payloads import streamed_too
from service.web.openapi.refusals import ASKING, refused_with
from service.web.paths import described
from service.web.runs.shapes import MAX_SEQ
from service.web.runs.waiting import wait_for_end

router = open_router(Scope.RUNS, tag="OpenAI dialect", body_limit_bytes=DIALECT_BODY_BYTES)

CANCEL_WITHIN_S = 10.0
"""How long a cancellation waits for the run's end before it tells how it stands."""


def _run_id(
    response_id: Annotated[
        str, Path(json_schema_extra=described("resp"), examples=["resp_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    ],
) -> RunId:
    return run_id_of(response_id)


def _records(runs: RunsOfCaller) -> AskedRecords:
    return AskedRecords(runs.rooms.journal)


RunOfResponse = Annotated[RunId, Depends(_run_id)]
RecordsOfCaller = Annotated[AskedRecords, Depends(_records)]
_STREAM = streamed_too(
    'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Rossi"}\n\n',
    "It as it stands, or its events as they come.",
)


@router.post(
    "/v1/responses",
    summary="Ask in OpenAI's responses dialect",
    response_model=ShownResponse,
    responses={200: _STREAM, **refused_with(*ASKING)},
)
async def respond(
    body: ResponseRequest, asker: AskerOfRequest, records: RecordsOfCaller, rooms: RoomsOfService
) -> Response:
    """The last message asks, earlier and long texts are looked into by the run. With `background` it comes back at
    once, with `stream` progress and answer come as they are made."""
    sent = await asker.conversation_of(body)
    previous = None if body.previous_response_id is None else run_id_of(body.previous_response_id)
    conversation = sent if previous is None else await _continued(asker.answering, records, sent, previous)
    asked = await asker.ask(conversation)
    record = replace(
        record_of(sent, asked.decision, asked_at=rooms.now()),
        text_format=None if body.text is None else body.text.format,
        previous=previous,
        metadata=body.metadata or {},
        is_background=bool(body.background),
    )
    if body.is_stored:
        record = await records.kept(asked.run_id, record)
    subject = Subject(
        run_id=asked.run_id, record=record, is_stored=body.is_stored, was_asked_before=asked.was_asked_before
    )
    if body.stream:
        return streamed(asked, ResponseTeller(subject), goes_on_alone=record.is_background)
    if record.is_background:
        return JSONResponse(in_progress(subject).model_dump(mode="json"), headers=asked.headers)
    whole = await awaited_answer(asked.answering, asked.run_id, asker.request)
    shown = answered(subject, [message_item(asked.run_id, whole.text)], whole.outcome)
    return JSONResponse(shown.model_dump(mode="json"), headers=asked.headers | saved_header(whole.outcome))


@router.get(
    "/v1/responses/{response_id}",
    summary="Show a response, or go on with its stream",
    response_model=ShownResponse,
    responses={200: _STREAM},
)
async def show_response(
    run_id: RunOfResponse,
    answering: AnsweringOfCaller,
    records: RecordsOfCaller,
    *,
    stream: Annotated[bool, Query()] = False,
    starting_after: Annotated[int, Query(ge=0, le=MAX_SEQ)] | None = None,
) -> Response:
    """With `stream` its events, those behind `starting_after` only; who leaves such a stream cancels nothing."""
    subject = Subject(run_id=run_id, record=await records.get(run_id), is_stored=True)
    if stream:
        teller = ResponseTeller(subject, -1 if starting_after is None else starting_after)
        return followed(answering, run_id, teller, headers={RUN_ID: run_id}, goes_on_alone=True)
    return _json(await _as_it_stands(answering, subject))


@router.post("/v1/responses/{response_id}/cancel", summary="Cancel a response", response_model=ShownResponse)
async def cancel_response(
    run_id: RunOfResponse,
    answering: AnsweringOfCaller,
    records: RecordsOfCaller,
    runs: RunsOfCaller,
    rooms: RoomsOfService,
) -> Response:
    """Its run is stopped wherever it is driven. One that has ended stays as it is."""
    subject = Subject(run_id=run_id, record=await records.get(run_id), is_stored=True)
    await runs.cancel(run_id)
    await wait_for_end(runs, run_id, CANCEL_WITHIN_S, rooms.drain)
    return _json(await _as_it_stands(answering, subject))


@router.delete("/v1/responses/{response_id}", summary="Forget a response")
async def delete_response(run_id: RunOfResponse, records: RecordsOfCaller) -> DeletedResponse:
    """It cannot be shown or continued any more. Its run stays, with its events and its answer."""
    await records.forget(run_id)
    return DeletedResponse(id=response_id(run_id))


async def _as_it_stands(answering: Answering, subject: Subject) -> ShownResponse:
    if not await answering.has_ended(subject.run_id):
        return in_progress(subject)
    try:
        whole = await whole_answer(answering, subject.run_id)
    except RlmServiceError as error:
        return failed(subject, error)
    return answered(subject, [message_item(subject.run_id, whole.text)], whole.outcome)


async def _continued(answering: Answering, records: AskedRecords, sent: Conversation, previous: RunId) -> Conversation:
    """What was said and answered before, before what was sent now.

    Raises:
        NotFound: a response that it continues is not stored.
        BadRequest: one has no answer (yet), or all are too much.
    """
    growing = GrowingHistory()
    for run_id, record in await records.chain(previous):
        if not await answering.has_ended(run_id):
            raise BadRequest(
                f"{response_id(run_id)} is still in progress: wait for its end", data={"param": "previous_response_id"}
            )
        try:
            answer = (await whole_answer(answering, run_id)).text
        except RlmServiceError as error:
            raise BadRequest(
                f"{response_id(run_id)} cannot be continued: {error}", data={"param": "previous_response_id"}
            ) from error
        growing.add(record, answer)
    before = growing.so_far()
    return replace(
        sent,
        earlier=(*before.said, *sent.earlier),
        context_ids=tuple(dict.fromkeys((*sent.context_ids, *before.context_ids))),
    )


def _json(shown: ShownResponse) -> Response:
    run_id = f"run_{shown.id.removeprefix('resp_')}"
    return JSONResponse(shown.model_dump(mode="json"), headers={RUN_ID: run_id})
