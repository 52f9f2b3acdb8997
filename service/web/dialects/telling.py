"""From a run to what its client is told: event by event, or the whole text at once."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.responses import StreamingResponse

from service.errors import Fault, RlmServiceError, sole_failure
from service.ids import RunId
from service.runs.answering.answering import Answering, Outcome, Said, Thought
from service.web.dialects.asking import Asked

PING = KEEPALIVE_COMMENT
LARGEST_WHOLE_CHARS = 64 << 20
"""Of an answer that goes into one JSON body."""

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
    # A client that waits for one body and loses its connection comes back for it: nothing is cancelled.
    async with aclosing(answering.follow(run_id, goes_on_alone=True)) as told:
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


def streamed(asked: Asked, teller: Teller, *, goes_on_alone: bool = False) -> StreamingResponse:
    """The response that tells it as it comes. The first byte is there at once."""
    return event_stream(
        events(asked.answering, asked.run_id, teller, goes_on_alone=goes_on_alone), headers=asked.headers
    )


def event_stream(told: AsyncGenerator[bytes, None], *, headers: Mapping[str, str]) -> StreamingResponse:
    more = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(told, media_type="text/event-stream", headers={**headers, **more})


async def events(
    answering: Answering, run_id: RunId, teller: Teller, *, goes_on_alone: bool
) -> AsyncGenerator[bytes, None]:
    """What happens to the run, in the teller's words; its failure too, because the status was sent long ago."""
    yield teller.begin()
    try:
        async with aclosing(answering.follow(run_id, goes_on_alone=goes_on_alone)) as told:
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
