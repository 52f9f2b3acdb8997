"""OpenAI's chat completions as a test server speaks them."""

import json
from typing import Any

from service.loop.values import Message
from service.models.port import ModelReply, ModelRequest
from tests.models.modes import Mode

PIECE_CHARS = 24


class ChatCompletions:
    """What is asked and answered at `…/chat/completions`."""

    def request(self, body: dict[str, Any], model: str) -> ModelRequest:
        return ModelRequest(
            model=model,
            messages=tuple(Message(role=one["role"], content=one["content"]) for one in body["messages"]),
            max_output_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or 4096,
            schema=(body.get("response_format") or {}).get("json_schema", {}).get("schema"),
        )

    def error(self, code: str, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "code": code}}

    def document(self, reply: ModelReply) -> dict[str, Any]:
        return _document(reply)

    def events(self, reply: ModelReply, mode: Mode) -> list[bytes]:
        return _events(reply, mode)

    def more(self) -> bytes:
        """One of endlessly many good events."""
        return _event_bytes(_chunk({"content": "x" * 4000}))


def _events(reply: ModelReply, mode: Mode) -> list[bytes]:
    """What a stream consists of in this mode."""
    pieces = [reply.text[at : at + PIECE_CHARS] for at in range(0, len(reply.text), PIECE_CHARS)] or [""]
    chunks: list[object] = [_chunk({"role": "assistant", "content": ""})]
    chunks += [_chunk({"content": piece}) for piece in pieces]
    finish = _chunk({}, finish_reason=reply.finish_reason)
    usage = {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": _usage(reply)}
    match mode:
        case Mode.WRONG_JSON:
            return [_event_bytes(chunks[0]), b"data: {not json\n\n"]
        case Mode.WRONG_SHAPE:
            return [b'data: {"choices": 7}\n\n']
        case Mode.DEEP_JSON:
            return [b"data: " + b"[" * 100_000 + b"\n\n"]
        case Mode.ERROR_IN_STREAM:
            return [_event_bytes(chunks[0]), _event_bytes({"error": {"message": "overloaded", "code": 503}})]
        case Mode.BROKEN_STREAM | Mode.UNFINISHED_STREAM | Mode.ENDLESS | Mode.SLOW_DRIP | Mode.STALLED:
            return [_event_bytes(chunk) for chunk in chunks[:2]]
        case Mode.CONTENT_FILTER:
            return [*map(_event_bytes, [*chunks, _chunk({}, finish_reason="content_filter")]), b"data: [DONE]\n\n"]
        case Mode.REFUSAL:
            refusal = [_chunk({"refusal": "I cannot help with that."}), finish]
            return [*map(_event_bytes, refusal), b"data: [DONE]\n\n"]
        case Mode.NO_USAGE:
            return [*map(_event_bytes, [*chunks, finish]), b"data: [DONE]\n\n"]
        case Mode.LYING_USAGE:
            lie = {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 1e30, "total_tokens": "many"}}
            return [*map(_event_bytes, [*chunks, finish, lie]), b"data: [DONE]\n\n"]
        case Mode.NO_DONE:
            return [_event_bytes(chunk) for chunk in [*chunks, finish, usage]]
        case _:
            return [*map(_event_bytes, [*chunks, finish, usage]), b"data: [DONE]\n\n"]


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None}


def _event_bytes(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _document(reply: ModelReply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": _usage(reply),
    }


def _usage(reply: ModelReply) -> dict[str, int]:
    assert reply.usage is not None
    prompt, completion = reply.usage.input_tokens, reply.usage.output_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
