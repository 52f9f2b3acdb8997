"""From a run to what its client is told: event by event, or the whole text at once."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import structlog
from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import Fault, RlmServiceError, sole_failure
from service.ids import RunId
from service.runs.answering.answering import Answering, Outcome, Said, Thought
from service.web.dialects.asking import Asked

PING = KEEPALIVE_COMMENT
LARGEST_WHOLE_CHARS = 64 << 20
"""Of an answer that goes into one JSON body."""
NOTED_WITHIN_S = 5.0
"""For the store to take a note that a client has gone."""

_log = structlog.get_logger(__name__)


class AnswerTooLong(RlmServiceError):
    """The answer is there and does not fit into one JSON body."""

    code = "answer_too_long"
    fault = Fault.CALLER


def too_long(run_id: RunId) -> AnswerTooLong:
    return AnswerTooLong(
        f"the answer is too long for one body: ask for a stream of chat completions, or read /v1/runs/{run_id}/answer",
        data={"run_id": run_id},
    )


class TellingFailed(RlmServiceError):
    """A defect of this service broke a stream off."""

    code = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An answer that was waited for."""

    text: str
    outcome: Outcome


async def whole_answer(answering: Answering, run_id: RunId) -> Whole:
    """Wait for the end.

    Raises:
        AnswerTooLong: it was to be streamed.
        NoAnswer, RunBudgetSpent, AnswerCancelled: see `Answering.follow`.
    """
    pieces: list[str] = []
    chars = 0
    with answering.listening(run_id) as hearing:
        hearing.may_leave = True  # a client that waits for one body and loses its connection comes back for it
        async with aclosing(answering.follow(run_id)) as told:
            async for each in told:
                match each:
                    case Said(text):
                        chars += len(text)
                        if chars > LARGEST_WHOLE_CHARS:
                            raise too_long(run_id)
                        pieces.append(text)
                    case Outcome():
                        return Whole(text="".join(pieces), outcome=each)
                    case Thought():
                        pass
    raise AssertionError("following ends with an outcome or raises")


async def awaited_answer(answering: Answering, run_id: RunId, request: Request) -> Whole:
    """`whole_answer` for the client of a request. That it goes away is noted: what it sends next may be given this run.

    Raises:
        ClientDisconnect: it went away.
        AnswerTooLong, NoAnswer, RunBudgetSpent, AnswerCancelled: see `whole_answer`.
    """
    whole: Whole | None = None
    failure: RlmServiceError | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            with anyio.move_on_after(NOTED_WITHIN_S, shield=True):
                await answering.note_left(run_id)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            whole = await whole_answer(answering, run_id)
        except RlmServiceError as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if whole is None:
        raise ClientDisconnect
    return whole


class Teller:
    """One dialect's words for what is told. Each method gives server-sent events, ready to be sent."""

    def begin(self) -> bytes:
        raise NotImplementedError

    def thought(self, text: str) -> bytes:
        raise NotImplementedError

    def said(self, text: str) -> bytes:
        raise NotImplementedError

    def end(self, outcome: Outcome) -> bytes:
        raise NotImplementedError

    def failed(self, error: RlmServiceError) -> bytes:
        raise NotImplementedError

    def ping(self) -> bytes:
        return PING


class _HeldStream(StreamingResponse):
    """Holds its run from before the first event is asked for, and lets go wherever in the stream its client leaves."""

    def __init__(self, answering: Answering, run_id: RunId, teller: Teller, *, goes_on_alone: bool) -> None:
        self._hold = answering.listening(run_id)
        self._may_leave = goes_on_alone
        self._told = self._to_the_end(events(answering, run_id, teller))
        super().__init__(self._told, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hold as hearing:
            try:
                async with aclosing(self._told):
                    await super().__call__(scope, receive, send)
            finally:
                hearing.may_leave = self._may_leave

    async def _to_the_end(self, told: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(told):
            async for event in told:
                yield event
        self._may_leave = True


def streamed(asked: Asked, teller: Teller, *, goes_on_alone: bool = False) -> StreamingResponse:
    """The response that tells it as it comes. The first byte is there at once. What everybody has left is cancelled
    after a grace, unless it `goes_on_alone`."""
    return followed(asked.answering, asked.run_id, teller, headers=asked.headers, goes_on_alone=goes_on_alone)


def followed(
    answering: Answering, run_id: RunId, teller: Teller, *, headers: Mapping[str, str], goes_on_alone: bool
) -> StreamingResponse:
    """The same of a run that was asked for earlier."""
    response = _HeldStream(answering, run_id, teller, goes_on_alone=goes_on_alone)
    response.headers.update({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
    return response


async def events(answering: Answering, run_id: RunId, teller: Teller) -> AsyncGenerator[bytes, None]:
    """What happens to the run, in the teller's words; its failure too, because the status was sent long ago."""
    yield teller.begin()
    try:
        async with aclosing(answering.follow(run_id)) as told:
            async for each in told:
                match each:
                    case Thought(""):
                        yield teller.ping()
                    case Thought(text):
                        yield teller.thought(text)
                    case Said(text):
                        yield teller.said(text)
                    case Outcome():
                        yield teller.end(each)
    except RlmServiceError as error:
        yield teller.failed(error)
    except Exception as exc:  # noqa: BLE001 -- one of the few boundaries: the client learns of it, the log has more
        failure = sole_failure(exc)
        _log.exception("telling_failed", run_id=run_id, exc_info=failure)
        yield teller.failed(
            failure
            if isinstance(failure, RlmServiceError)
            else TellingFailed("the service failed; its log has more under this run id")
        )
