"""`/v1/messages` and `/v1/messages/count_tokens`."""

import json
from typing import Any, Literal

import anyio.to_thread
from fastapi import Response
from starlette.responses import JSONResponse

from service.errors import RlmServiceError
from service.loop.values import Message
from service.models.prices import input_token_bound
from service.runs.answering.answering import Outcome
from service.tenants.values import Scope
from service.web.dialects.anthropic.refusals import error_of
from service.web.dialects.anthropic.shapes import (
    NO_USAGE,
    CountedTokens,
    CountRequest,
    MessageAnswer,
    MessageRequest,
    TextBlock,
    all_texts,
    message_usage,
    stop_reason_of,
)
from service.web.dialects.asking import Asked, AskerOfRequest
from service.web.dialects.parameters import DIALECT_BODY_BYTES
from service.web.dialects.reports import saved_header
from service.web.dialects.telling import Teller, awaited_answer, streamed
from service.web.doors import open_router
from service.web.openapi.payloads import streamed_too
from service.web.openapi.refusals import ASKING, refused_with

router = open_router(Scope.RUNS, tag="Anthropic dialect", body_limit_bytes=DIALECT_BODY_BYTES)

_EXAMPLE = (
    "event: content_block_delta\n"
    'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Rossi"}}\n\n'
)


@router.post(
    "/v1/messages",
    summary="Ask in Anthropic's dialect",
    response_model=MessageAnswer,
    responses={200: streamed_too(_EXAMPLE), **refused_with(*ASKING)},
)
async def messages(body: MessageRequest, asker: AskerOfRequest) -> Response:
    """The last message asks, earlier and long texts are looked into by the run. With `stream` the run's progress comes
    as a block of thinking, and the answer as a block of text."""
    asked = await asker.ask(await asker.conversation_of(body))
    if body.stream:
        return streamed(asked, MessageTeller(asked))
    whole = await awaited_answer(asked.answering, asked.run_id, asker.request)
    answer = MessageAnswer(
        id=_answer_id(asked),
        model=asked.model,
        content=[TextBlock(text=whole.text)],
        stop_reason=stop_reason_of(whole.outcome.finish_reason),
        usage=message_usage(whole.outcome.view),
        rlm=asked.report(whole.outcome),
    )
    return JSONResponse(answer.model_dump(mode="json"), headers=asked.headers | saved_header(whole.outcome))


@router.post("/v1/messages/count_tokens", summary="Count the tokens of messages")
async def count_tokens(body: CountRequest) -> CountedTokens:
    """An upper bound that holds for every model: whoever plans with it never sends too much."""
    texts = tuple(Message(role="user", content=text) for text in all_texts(body))
    return CountedTokens(input_tokens=await anyio.to_thread.run_sync(input_token_bound, texts))


class MessageTeller(Teller):
    """Events of a message: blocks one after the other, thinking before text."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._block: Literal["thinking", "text"] | None = None
        self._index = -1

    def begin(self) -> bytes:
        answer = MessageAnswer(
            id=_answer_id(self._asked),
            model=self._asked.model,
            content=[],
            stop_reason=None,
            usage=NO_USAGE,
            rlm=None,
        )
        return _event("message_start", message=answer.model_dump(mode="json", exclude={"rlm"}))

    def thought(self, text: str) -> bytes:
        return self._in_block("thinking") + self._delta({"type": "thinking_delta", "thinking": text})

    def said(self, text: str) -> bytes:
        return self._in_block("text") + self._delta({"type": "text_delta", "text": text})

    def end(self, outcome: Outcome) -> bytes:
        reason = stop_reason_of(outcome.finish_reason)
        return (
            self._end_of_block()
            + _event(
                "message_delta",
                delta={"stop_reason": reason, "stop_sequence": None},
                usage=message_usage(outcome.view).model_dump(mode="json"),
                rlm=self._asked.report(outcome).model_dump(mode="json"),
            )
            + _event("message_stop")
        )

    def failed(self, error: RlmServiceError) -> bytes:
        return _event("error", error=error_of(error))

    def ping(self) -> bytes:
        return _event("ping")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _in_block(self, kind: Literal["thinking", "text"]) -> bytes:
        """What has to be said so that a delta of this kind may follow."""
        if self._block == kind:
            return b""
        ended = self._end_of_block()
        self._block = kind
        self._index += 1
        empty = {"thinking": "", "signature": ""} if kind == "thinking" else {"text": "", "citations": None}
        return ended + _event("content_block_start", index=self._index, content_block={"type": kind, **empty})

    def _end_of_block(self) -> bytes:
        if self._block is None:
            return b""
        self._block = None
        return _event("content_block_stop", index=self._index)


def _event(kind: str, **more: Any) -> bytes:
    value = json.dumps({"type": kind, **more}, ensure_ascii=False, separators=(",", ":"))
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), value.encode("utf-8", "replace"))


def _answer_id(asked: Asked) -> str:
    return f"msg_{asked.run_id.removeprefix('run_')}"
