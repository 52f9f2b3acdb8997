"""Anthropic's messages protocol as data: request bodies, streamed events, whole replies, usage. No I/O.

Prefix cache: what is written to it costs a quarter more than plain input and what is read from it a tenth, so only what
will be sent again is marked. The system prompt is marked always, a conversation that goes on (`is_continued`) at its
last two user messages: the last is where this request writes, the one before is where the previous request wrote.

What the server sends is hostile input: every field is checked where it is read, and what has the wrong shape is
`Malformed`, except usage, where nonsense counts as none (the ledger then books the bound).
"""

import json
import re
from typing import Any

from service.loop.values import CallOutcome, Message, Usage
from service.models.json_schemas import decodable
from service.models.json_values import Malformed, body_bytes, token_count, without_surrogates
from service.models.port import ModelCallFailed, ModelReply, ModelRequest

_FINISHED = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
"""Their stop reasons, in the words of the other adapters; one that is not here is passed on as it is."""

_WITHOUT_DECODER = re.compile(r"claude-(instant|[123]|(opus|sonnet)-4(-0|-1)?(-20\d{6})?$)")
"""Models of before constrained decoding, which refuse `output_config`. Nobody makes new ones."""

_IN_WORDS = "Reply with JSON only, satisfying this JSON Schema:"
_EMPTY = "(empty)"
"""Stands for a text without a visible character, which the server refuses."""
_MARK = {"type": "ephemeral"}
_MARKED_MESSAGES = 2


def request_body(request: ModelRequest) -> bytes:
    """The body of `POST /v1/messages`, always streaming: only a stream shows where it breaks."""
    head, messages = _without_system_head(request.messages)
    system = [_text_block(message.content) for message in head]
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "stream": True,
    }
    if request.schema is not None:
        schema = None if _WITHOUT_DECODER.search(request.model) else decodable(request.schema)
        if schema is None:
            system.append(_text_block(f"{_IN_WORDS}\n{_compact(request.schema)}"))
        else:
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if system:
        system[-1]["cache_control"] = _MARK
        body["system"] = system
    body["messages"] = _conversation(messages, is_continued=request.is_continued)
    return body_bytes(body)


def _without_system_head(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system messages that the request begins with, and the rest."""
    at = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:at], messages[at:]


def _conversation(messages: tuple[Message, ...], *, is_continued: bool) -> list[dict[str, Any]]:
    """User and assistant messages. A system message in their midst is said by the user; one has to stand first."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        turns.append({"role": role, "content": [_text_block(message.content)]})
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [_text_block("")]})
    if is_continued:
        for turn in [turn for turn in turns if turn["role"] == "user"][-_MARKED_MESSAGES:]:
            turn["content"][-1]["cache_control"] = _MARK
    return turns


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text if text.strip() else _EMPTY}


def _compact(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


class MessageReader:
    """See `ReplyReader`: a reply from its events, or from one document."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._asked = 0
        """How many parts `new_text` has given out."""
        self._stop_reason: str | None = None
        self._counts: dict[str, object] = {}
        self._is_done = False

    def __repr__(self) -> str:
        return f"<MessageReader {len(self._parts)} parts, stop={self._stop_reason}>"

    @property
    def is_done(self) -> bool:
        return self._is_done

    def add(self, chunk: object) -> None:
        """Events and blocks of kinds that are not known (thinking, kinds to come) are passed over, as the API asks."""
        if not isinstance(chunk, dict):
            raise Malformed("expected a JSON object in each event")
        match chunk.get("type"):
            case "message_start":
                self._add_usage(_object(chunk, "message").get("usage"))
            case "content_block_start":
                self._add_text(_object(chunk, "content_block"), "text")
            case "content_block_delta":
                self._add_text(_object(chunk, "delta"), "text_delta")
            case "message_delta":
                self._add_stop_reason(_object(chunk, "delta"))
                self._add_usage(chunk.get("usage"))
            case "message_stop":
                self._is_done = True
            case str():
                pass
            case _:
                raise Malformed("expected a type in each event")

    def add_whole(self, document: object) -> None:
        content = document.get("content") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(content, list):
            raise Malformed("expected a list named content")
        for block in content:
            if not isinstance(block, dict):
                raise Malformed("expected each content block to be an object")
            self._add_text(block, "text")
        self._add_stop_reason(document)
        self._add_usage(document.get("usage"))

    def new_text(self) -> str:
        new, self._asked = self._parts[self._asked :], len(self._parts)
        return without_surrogates("".join(new))

    def reply(self) -> ModelReply:
        """A stream that ends before the model said why it stopped is broken."""
        if self._stop_reason is None:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the reply broke off before the model finished")
        if self._stop_reason == "refusal":
            raise ModelCallFailed(CallOutcome.REFUSED, "the model refused to answer")
        return ModelReply(
            text=without_surrogates("".join(self._parts)),
            usage=read_usage(self._counts),
            finish_reason=_FINISHED.get(self._stop_reason, self._stop_reason),
        )

    def _add_text(self, block: dict[str, Any], kind: str) -> None:
        if block.get("type") != kind:
            return
        text = block.get("text")
        if not isinstance(text, str):
            raise Malformed("expected text to be a string")
        self._parts.append(text)

    def _add_stop_reason(self, value: dict[str, Any]) -> None:
        reason = value.get("stop_reason")
        if isinstance(reason, str):
            self._stop_reason = reason

    def _add_usage(self, value: object) -> None:
        """Counts are cumulative: a later one replaces an earlier one. What is null says nothing."""
        if isinstance(value, dict):
            self._counts |= {name: count for name, count in value.items() if count is not None}


def read_usage(counts: dict[str, object]) -> Usage | None:
    """Token counts as billed, or None when they are missing or cannot be true.

    Here `input_tokens` are those beside the cache; ours include what was read from and written to it.
    """
    plain, output = token_count(counts.get("input_tokens")), token_count(counts.get("output_tokens"))
    cached = token_count(counts.get("cache_read_input_tokens") or 0)
    written = token_count(counts.get("cache_creation_input_tokens") or 0)
    if plain is None or output is None or cached is None or written is None:
        return None
    return Usage(
        input_tokens=plain + cached + written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )


def _object(chunk: dict[str, Any], name: str) -> dict[str, Any]:
    value = chunk.get(name)
    if not isinstance(value, dict):
        raise Malformed(f"expected an object named {name}")
    return value
