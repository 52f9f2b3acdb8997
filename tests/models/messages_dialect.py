"""Anthropic's messages as a test server speaks them, with a prefix cache like theirs."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from service.loop.values import Message
from service.models.port import ModelReply, ModelRequest
from service.models.scripted.adapter import count_tokens
from tests.models.modes import Mode

PIECE_CHARS = 24


@dataclass
class PrefixCache:
    """Prefixes that requests marked, by digest, with their tokens."""

    prefixes: dict[str, int] = field(default_factory=dict)

    def look_up(self, blocks: list[dict[str, Any]]) -> tuple[int, int]:
        """How many tokens were read from the cache, and how many written to it."""
        digest, tokens, read, marked = hashlib.sha256(), 0, 0, 0
        new: dict[str, int] = {}
        for block in blocks:
            digest.update(json.dumps([block["role"], block["text"]]).encode())
            tokens += count_tokens((Message(role="user", content=block["text"]),))
            if "cache_control" in block:
                read = max(read, self.prefixes.get(digest.hexdigest(), 0))
                marked = tokens
                new[digest.hexdigest()] = tokens
        self.prefixes |= new
        return read, marked - read


class Messages:
    """What is asked and answered at `…/v1/messages`. One is made for each call."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._read = self._written = 0

    def request(self, body: dict[str, Any], model: str) -> ModelRequest:
        blocks = [{**block, "role": "system"} for block in body.get("system", [])]
        blocks += [{**block, "role": turn["role"]} for turn in body["messages"] for block in turn["content"]]
        assert body["messages"][0]["role"] == "user"
        assert all(block["text"].strip() for block in blocks)
        assert sum("cache_control" in block for block in blocks) <= 4
        self._read, self._written = self._cache.look_up(blocks)
        return ModelRequest(
            model=model,
            messages=tuple(Message(role=block["role"], content=block["text"]) for block in blocks),
            max_output_tokens=body["max_tokens"],
            schema=body.get("output_config", {}).get("format", {}).get("schema"),
        )

    def error(self, code: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": code, "message": message}}

    def document(self, reply: ModelReply) -> dict[str, Any]:
        return {
            **_message(),
            "content": [{"type": "text", "text": reply.text}],
            "stop_reason": _stop_reason(reply),
            "usage": self._usage(reply) | {"output_tokens": _output_tokens(reply)},
        }

    def events(self, reply: ModelReply, mode: Mode) -> list[bytes]:
        events = self._good_events(reply)
        match mode:
            case Mode.WRONG_JSON:
                return [events[0], b"event: ping\ndata: {not json\n\n"]
            case Mode.WRONG_SHAPE:
                return [b'data: {"type": "content_block_delta", "delta": 7}\n\n']
            case Mode.DEEP_JSON:
                return [b"data: " + b"[" * 100_000 + b"\n\n"]
            case Mode.ERROR_IN_STREAM:
                return [events[0], _event(self.error("overloaded_error", "Overloaded"))]
            case Mode.BROKEN_STREAM | Mode.UNFINISHED_STREAM | Mode.ENDLESS | Mode.SLOW_DRIP | Mode.STALLED:
                return events[:3]
            case Mode.REFUSAL | Mode.CONTENT_FILTER:
                return [*events[:-2], _event(_message_delta("refusal", {"output_tokens": 1})), events[-1]]
            case Mode.NO_USAGE:
                bare = {"type": "message_start", "message": _message()}
                return [_event(bare), *events[1:-2], _event(_message_delta(_stop_reason(reply), None)), events[-1]]
            case Mode.LYING_USAGE:
                lie = {"input_tokens": -5, "output_tokens": 1e30}
                return [*events[:-2], _event(_message_delta(_stop_reason(reply), lie)), events[-1]]
            case Mode.NO_DONE:
                return events[:-1]
            case _:
                return events

    def more(self) -> bytes:
        """One of endlessly many good events."""
        return _event(_delta("x" * 4000))

    def _good_events(self, reply: ModelReply) -> list[bytes]:
        pieces = [reply.text[at : at + PIECE_CHARS] for at in range(0, len(reply.text), PIECE_CHARS)]
        start = {"type": "message_start", "message": {**_message(), "usage": self._usage(reply) | {"output_tokens": 1}}}
        thought = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}
        block = {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}
        documents: list[dict[str, Any]] = [start, {"type": "ping"}, thought, block, *map(_delta, pieces)]
        documents += [
            {"type": "content_block_stop", "index": 1},
            _message_delta(_stop_reason(reply), {"output_tokens": _output_tokens(reply), "input_tokens": None}),
            {"type": "message_stop"},
        ]
        return [_event(document) for document in documents]

    def _usage(self, reply: ModelReply) -> dict[str, int]:
        assert reply.usage is not None
        return {
            "input_tokens": reply.usage.input_tokens - self._read - self._written,
            "cache_read_input_tokens": self._read,
            "cache_creation_input_tokens": self._written,
        }


def _message() -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}


def _delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}


def _message_delta(stop_reason: str, usage: dict[str, Any] | None) -> dict[str, Any]:
    delta = {"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": None}}
    return delta if usage is None else {**delta, "usage": usage}


def _stop_reason(reply: ModelReply) -> str:
    return {"stop": "end_turn", "length": "max_tokens"}[reply.finish_reason]


def _output_tokens(reply: ModelReply) -> int:
    assert reply.usage is not None
    return reply.usage.output_tokens


def _event(document: dict[str, Any]) -> bytes:
    return f"event: {document['type']}\ndata: {json.dumps(document)}\n\n".encode()
