"""`/v1/chat/completions`."""

import json
from typing import Any

from fastapi import Response
from starlette.responses import JSONResponse

from service.errors import RlmServiceError
from service.runs.answering.answering import Outcome
from service.tenants.values import Scope
from service.web.callers import RoomsOfService
from service.web.dialects.asking import Asked, AskerOfRequest
from service.web.dialects.openai.chat_shapes import ChatCompletion, ChatCompletionRequest, chat_usage, completion
from service.web.dialects.parameters import DIALECT_BODY_BYTES
from service.web.dialects.reports import saved_header
from service.web.dialects.telling import Teller, awaited_answer, streamed
from service.web.doors import open_router
from service.web.openapi.payloads import streamed_too
from service.web.openapi.refusals import ASKING, refused_with
from service.web.problems import openai_error

router = open_router(Scope.RUNS, tag="OpenAI dialect", body_limit_bytes=DIALECT_BODY_BYTES)

_EXAMPLE = 'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Rossi"}}]}\n\n'


@router.post(
    "/v1/chat/completions",
    summary="Ask in OpenAI's chat dialect",
    response_model=ChatCompletion,
    responses={200: streamed_too(_EXAMPLE), **refused_with(*ASKING)},
)
async def chat_completions(body: ChatCompletionRequest, asker: AskerOfRequest, rooms: RoomsOfService) -> Response:
    """The last message asks, earlier and long texts are looked into by the run. With `stream` the run's progress comes
    as `delta.reasoning_content` and the answer as `delta.content`; usage always stands in the last chunk."""
    asked = await asker.ask(await asker.conversation_of(body))
    created = int(rooms.now())
    if body.stream:
        return streamed(asked, ChatTeller(asked, created))
    whole = await awaited_answer(asked.answering, asked.run_id, asker.request)
    rlm = asked.report(whole.outcome)
    answer = completion(
        _answer_id(asked), created=created, model=asked.model, text=whole.text, outcome=whole.outcome, rlm=rlm
    )
    return JSONResponse(answer.model_dump(mode="json"), headers=asked.headers | saved_header(whole.outcome))


class ChatTeller(Teller):
    """Chunks of a chat completion."""

    def __init__(self, asked: Asked, created: int) -> None:
        self._asked = asked
        self._head = {
            "id": _answer_id(asked),
            "object": "chat.completion.chunk",
            "created": created,
            "model": asked.model,
        }

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": ""})

    def thought(self, text: str) -> bytes:
        # Both names are in use: DeepSeek's and vLLM's, and OpenRouter's.
        return self._chunk({"reasoning_content": text, "reasoning": text})

    def said(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def end(self, outcome: Outcome) -> bytes:
        usage = chat_usage(outcome.view).model_dump(mode="json")
        rlm = self._asked.report(outcome).model_dump(mode="json")
        return self._chunk({}, finish_reason=outcome.finish_reason, usage=usage, rlm=rlm) + b"data: [DONE]\n\n"

    def failed(self, error: RlmServiceError) -> bytes:
        return _event({"error": openai_error(error).model_dump(), "rlm": {"run_id": self._asked.run_id}})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._head, "choices": [choice], **more})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _answer_id(asked: Asked) -> str:
    return f"chatcmpl-{asked.run_id.removeprefix('run_')}"
