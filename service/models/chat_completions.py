"""The chat completions protocol as data: request bodies, streamed chunks, whole replies, usage. No I/O.

What the server sends is hostile input: every field is checked where it is read, and what has the wrong shape is
`Malformed`, except usage, where nonsense counts as none (the ledger then books the bound).
"""

from dataclasses import dataclass
from typing import Any, Literal

from service.loop.values import CallOutcome, Message, Usage
from service.models.json_schemas import schemas_within
from service.models.json_values import Malformed, body_bytes, token_count, without_surrogates
from service.models.port import ModelCallFailed, ModelReply, ModelRequest


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
    return body_bytes(body)


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI's strict mode takes this schema: every object closed, with all its properties required."""
    return all(_is_closed(each) for each in schemas_within(schema))


def _is_closed(schema: dict[str, Any]) -> bool:
    """Whether this schema, without those within it, is for no object or for a closed one."""
    kind = schema.get("type")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind) and "properties" not in schema:
        return True
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
        return False
    return isinstance(required, list) and sorted(map(str, required)) == sorted(properties)


def read_usage(value: object) -> Usage | None:
    """Token counts as billed, or None when they are missing or cannot be true."""
    if not isinstance(value, dict):
        return None
    prompt, completion = token_count(value.get("prompt_tokens")), token_count(value.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = token_count(details.get("cached_tokens") or 0)
    written = token_count(details.get("cache_write_tokens") or value.get("cache_creation_input_tokens") or 0)
    if cached is None or written is None or cached + written > prompt:
        return None
    # Some providers leave reasoning out of completion_tokens and bill it: the total then tells.
    total = token_count(value.get("total_tokens") or 0)
    if total is None:
        return None
    return Usage(
        input_tokens=prompt,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=max(completion, total - prompt),
    )


class CompletionReader:
    """See `ReplyReader`: a reply from its chunks, or from one document."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._asked = 0
        """How many parts `new_text` has given out."""
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._refused = False

    def __repr__(self) -> str:
        return f"<CompletionReader {len(self._parts)} parts, finish={self._finish_reason}>"

    @property
    def is_done(self) -> bool:
        """Never by a chunk: usage follows the last choice, and `[DONE]` ends the stream."""
        return False

    def add(self, chunk: object) -> None:
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
            self._refused = self._refused or bool(_text(delta.get("refusal")))
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self._finish_reason = finish

    def add_whole(self, document: object) -> None:
        choice = _first_choice(document)
        message = choice.get("message") if choice else None
        if choice is None or not isinstance(message, dict) or not isinstance(document, dict):
            raise Malformed("expected choices[0].message")
        self._parts.append(_text(message.get("content")))
        self._refused = bool(_text(message.get("refusal")))
        self._usage = read_usage(document.get("usage"))
        finish = choice.get("finish_reason")
        self._finish_reason = finish if isinstance(finish, str) else "stop"

    def new_text(self) -> str:
        new, self._asked = self._parts[self._asked :], len(self._parts)
        return without_surrogates("".join(new))

    def reply(self) -> ModelReply:
        """A stream that ends before the model said why it stopped is broken."""
        if self._finish_reason is None:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the reply broke off before the model finished")
        if self._finish_reason == "content_filter":
            raise ModelCallFailed(CallOutcome.REFUSED, "the provider's content filter cut the reply")
        if self._refused:
            raise ModelCallFailed(CallOutcome.REFUSED, "the model refused to answer")
        text = without_surrogates("".join(self._parts))
        return ModelReply(text=text, usage=self._usage, finish_reason=self._finish_reason)


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
