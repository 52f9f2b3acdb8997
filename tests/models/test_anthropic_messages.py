"""What Anthropic's models are sent, and how their replies are read."""

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import CallOutcome, Message, Usage
from service.models.anthropic_messages import API_VERSION, AnthropicAdapter
from service.models.json_values import Malformed
from service.models.messages_protocol import MessageReader, read_usage, request_body
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from tests.models.contract import request
from tests.models.protocol_server import serving

KEY = "sk-ant-0123456789abcdef"
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "delta", "message", "content", "usage", "stop_reason", "text", "content_block"]),
            inner | st.sampled_from(["message_start", "content_block_delta", "message_delta", "text", "text_delta"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


def conversation(*contents: str) -> tuple[Message, ...]:
    """A system prompt, then user and assistant in turn."""
    turns = (Message(role="assistant" if at % 2 else "user", content=text) for at, text in enumerate(contents))
    return (Message(role="system", content="You answer."), *turns)


def body_of(sent: ModelRequest) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request_body(sent))
    return body


def marked(body: dict[str, Any]) -> list[str]:
    """The texts that carry a cache mark."""
    blocks = [*body.get("system", []), *(block for turn in body["messages"] for block in turn["content"])]
    return [block["text"] for block in blocks if "cache_control" in block]


@pytest.mark.anyio
async def test_what_the_provider_sees() -> None:
    """Key and version go into their headers, the output limit is always sent, and no sampling option is."""
    async with serving() as server:
        adapter = AnthropicAdapter(base_url=server.base_url, api_key=KEY, concurrency=4)
        await adapter.complete(request())
        await adapter.aclose()
        (call,) = server.calls
    assert call.path == "/v1/messages"
    assert call.headers["x-api-key"] == KEY
    assert call.headers["anthropic-version"] == API_VERSION
    assert "authorization" not in call.headers
    assert call.body.keys() == {"model", "max_tokens", "stream", "messages"}


@pytest.mark.anyio
@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_base_url_may_end_as_it_likes(suffix: str) -> None:
    """ANTHROPIC_BASE_URL comes with and without /v1, and both mean the same address."""
    async with serving() as server:
        base_url = server.base_url.removesuffix("/v1") + suffix
        adapter = AnthropicAdapter(base_url=base_url, api_key=KEY, concurrency=1)
        await adapter.complete(request())
        await adapter.aclose()
        assert server.calls[0].path == "/v1/messages"


@pytest.mark.anyio
async def test_a_conversation_is_read_from_the_cache() -> None:
    """Each turn reads from the prefix cache all that the turn before it wrote, and writes only what is new."""
    contents: list[str] = ["Question: What is the magic number?\n\nText:\nnothing yet"]
    used: list[Usage] = []
    async with serving() as server:
        adapter = AnthropicAdapter(base_url=server.base_url, api_key=KEY, concurrency=1)
        for turn in range(4):
            sent = ModelRequest(model="m", messages=conversation(*contents), max_output_tokens=50, is_continued=True)
            reply = await adapter.complete(sent)
            assert reply.usage is not None
            used.append(reply.usage)
            contents += [reply.text or "?", f"observation {turn}"]
        await adapter.aclose()
    for before, after in itertools.pairwise(used):
        assert after.cached_input_tokens == before.input_tokens
        assert after.cached_input_tokens + after.cache_write_tokens == after.input_tokens


def test_only_what_is_sent_again_is_marked() -> None:
    """Marks cost a quarter more to write: a single call marks its system prompt alone, a turn also its history."""
    messages = conversation("one", "two", "three", "four", "five")
    once = ModelRequest(model="m", messages=messages, max_output_tokens=5)
    assert marked(body_of(once)) == ["You answer."]
    turn = ModelRequest(model="m", messages=messages, max_output_tokens=5, is_continued=True)
    assert marked(body_of(turn)) == ["You answer.", "three", "five"]


def test_what_the_server_would_refuse_is_not_sent() -> None:
    """Texts without a visible character get one, a system message in the midst is the user's, the user begins."""
    messages = (
        Message(role="assistant", content=" \n"),
        Message(role="system", content="Be brief."),
        Message(role="user", content="a \ud800 b"),
    )
    body = body_of(ModelRequest(model="m", messages=messages, max_output_tokens=5))
    assert [(turn["role"], turn["content"][0]["text"]) for turn in body["messages"]] == [
        ("user", "(empty)"),
        ("assistant", "(empty)"),
        ("user", "Be brief."),
        ("user", "a ? b"),
    ]


@pytest.mark.parametrize(
    ("model", "schema", "is_decoded"),
    [
        ("claude-sonnet-4-5", CLOSED, True),
        ("claude-opus-4-5-20251101", CLOSED, True),
        ("claude-haiku-5-5", {"type": "object", "additionalProperties": {"type": "string"}}, False),
        ("claude-sonnet-4-20250514", CLOSED, False),
        ("claude-opus-4-1", CLOSED, False),
        ("claude-3-5-haiku-latest", CLOSED, False),
    ],
)
def test_a_schema_is_decoded_or_said(model: str, schema: dict[str, Any], is_decoded: bool) -> None:
    """Where model and schema allow it the decoder gets the schema; elsewhere the system prompt says it."""
    messages = (Message(role="user", content="hi"),)
    body = body_of(ModelRequest(model=model, messages=messages, max_output_tokens=5, schema=schema))
    assert ("output_config" in body) is is_decoded
    assert ("system" in body) is not is_decoded
    if not is_decoded:
        assert json.loads(body["system"][0]["text"].partition("\n")[2]) == schema


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"input_tokens": 5, "output_tokens": 3}, Usage(input_tokens=5, output_tokens=3)),
        (
            {
                "input_tokens": 5,
                "output_tokens": 3,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
            },
            Usage(input_tokens=125, cached_input_tokens=100, cache_write_tokens=20, output_tokens=3),
        ),
        ({"input_tokens": 5}, None),
        ({"output_tokens": 5}, None),
        ({"input_tokens": True, "output_tokens": 3}, None),
        ({"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": -1}, None),
        ({"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": "many"}, None),
    ],
)
def test_usage_is_true_or_none(counts: dict[str, object], usage: Usage | None) -> None:
    """Input beside, from and into the cache are one sum with its parts; what cannot be true is no usage at all."""
    assert read_usage(counts) == usage


@given(st.lists(JSON, max_size=4))
def test_any_json_is_read_or_malformed(documents: list[Any]) -> None:
    """No document from a server raises anything but `Malformed`, or comes to anything but a reply or a failed call."""
    whole, streamed = MessageReader(), MessageReader()
    for document in documents:
        with suppress(Malformed):
            whole.add_whole(document)
        with suppress(Malformed):
            streamed.add(document)
    for reader in (whole, streamed):
        with suppress(ModelCallFailed):
            assert isinstance(reader.reply().text, str)


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("something_new", "something_new"),
    ],
)
def test_why_a_reply_ended(stop_reason: str, finish_reason: str) -> None:
    """Stop reasons are told in the words of the other adapters."""
    assert _reply_with(stop_reason).finish_reason == finish_reason


def test_a_refusal_is_a_failed_call() -> None:
    """A refusal is not an answer, and it is billed."""
    with pytest.raises(ModelCallFailed) as failed:
        _reply_with("refusal")
    assert failed.value.outcome is CallOutcome.REFUSED
    assert failed.value.may_be_billed


def _reply_with(stop_reason: str) -> ModelReply:
    reader = MessageReader()
    reader.add_whole({"content": [{"type": "text", "text": "a"}], "stop_reason": stop_reason})
    return reader.reply()
