"""The chat completions protocol as data: request bodies, streamed chunks, whole replies, usage. No I/O.

What the server sends is hostile input: every field is checked where it is read, and what has the wrong shape is
`Malformed`, except usage, where nonsense counts as none (the ledger then books the bound).
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from service.loop.values import Message, Usage
from service.models.port import ModelReply, ModelRequest

MOST_TOKENS = 1_000_000_000
"""A count of tokens above this is nonsense: no window is near it."""


class Malformed(Exception):
    """The server's JSON is not what the protocol says; the text says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Where servers of this protocol differ in what they accept."""

    output_limit_field: Literal["max_tokens", "max_completion_tokens"]
    """OpenAI's newer models refuse `max_tokens`; most compatible servers know nothing else."""
    takes_cache_key: bool
    """Strict servers answer 422 to a field they do not know, and `prompt_cache_key` is OpenAI's own."""


OPENAI = Dialect(output_limit_field="max_completion_tokens", takes_cache_key=True)
COMPATIBLE = Dialect(output_limit_field="max_tokens", takes_cache_key=False)


def dialect_of(host: str) -> Dialect:
    """OpenAI's own hosts (regional ones and Azure's too) speak `OPENAI`, everybody else `COMPATIBLE`."""
    if host == "api.openai.com" or host.endswith((".api.openai.com", ".openai.azure.com")):
        return OPENAI
    return COMPATIBLE


def request_body(request: ModelRequest, dialect: Dialect) -> bytes:
    """The body of `POST …/chat/completions`, always streaming: only a stream shows where it breaks."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        dialect.output_limit_field: request.max_output_tokens,
    }
    if request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": request.schema, "strict": _is_strict(request.schema)},
        }
    if request.cache_key is not None and dialect.takes_cache_key:
        body["prompt_cache_key"] = request.cache_key
    # A lone surrogate cannot be sent as UTF-8, and servers refuse it as an escape: it becomes a question mark.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI's strict mode takes this schema: every object closed, with all its properties required."""
    if isinstance(schema, list):
        return all(_is_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
            return False
        if set(schema.get("required", ())) != set(properties):
            return False
    return all(_is_strict(value) for value in schema.values())


def parse_json(text: str | bytes) -> Any:
    """JSON from a server.

    Raises:
        Malformed: it is not JSON, contains NaN or infinities, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Malformed("expected JSON") from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def read_usage(value: object) -> Usage | None:
    """Token counts as billed, or None when they are missing or cannot be true."""
    if not isinstance(value, dict):
        return None
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = _count(details.get("cached_tokens") or 0)
    written = _count(details.get("cache_write_tokens") or value.get("cache_creation_input_tokens") or 0)
    if cached is None or written is None or cached + written > prompt:
        return None
    # Some providers leave reasoning out of completion_tokens and bill it: the total then tells.
    total = _count(value.get("total_tokens") or 0)
    if total is None:
        return None
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=max(completion, total - prompt),
    )


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        return None
    return value


def whole_reply(document: object) -> tuple[ModelReply, bool]:
    """A reply that came in one piece, and whether the model refused.

    Raises:
        Malformed: it has no first choice with a message.
    """
    choice = _first_choice(document)
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict) or not isinstance(document, dict):
        raise Malformed("expected choices[0].message")
    finish = choice.get("finish_reason")
    reply = ModelReply(
        text=_without_surrogates(_text(message.get("content"))),
        usage=read_usage(document.get("usage")),
        finish_reason=finish if isinstance(finish, str) else "stop",
    )
    return reply, bool(_text(message.get("refusal")))


class StreamedReply:
    """Puts a reply together from its chunks."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self.refused = False

    def __repr__(self) -> str:
        return f"<StreamedReply {len(self._parts)} parts, finish={self._finish_reason}>"

    @property
    def is_finished(self) -> bool:
        """Whether the model said why it stopped. A stream that ends before that is broken."""
        return self._finish_reason is not None

    def add(self, chunk: object) -> None:
        """Take in one chunk.

        Raises:
            Malformed: it is not a chunk.
        """
        if not isinstance(chunk, dict):
            raise Malformed("expected a JSON object in each event")
        if "usage" in chunk:
            self._usage = read_usage(chunk["usage"]) or self._usage
        choice = _first_choice(chunk)
        if choice is None:
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if text := _text(delta.get("content")):
                self._parts.append(text)
            self.refused = self.refused or bool(_text(delta.get("refusal")))
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self._finish_reason = finish

    def reply(self) -> ModelReply:
        return ModelReply(
            text=_without_surrogates("".join(self._parts)),
            usage=self._usage,
            finish_reason=self._finish_reason or "stop",
        )


def _first_choice(document: object) -> dict[str, Any] | None:
    """Choice 0; None for a chunk without choices (usage alone).

    Raises:
        Malformed: `choices` is missing or not a list of objects.
    """
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list):
        raise Malformed("expected a list named choices")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise Malformed("expected choices[0] to be an object")
    return choices[0]


def _text(content: object) -> str:
    """Content is a string, null, or (some servers) a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    raise Malformed("expected content to be a string")


def _without_surrogates(text: str) -> str:
    """JSON can spell halves of a character, and some servers cut between them: pairs are joined, others replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
