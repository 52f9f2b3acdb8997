"""What OpenAI and servers like it are sent."""

import json

import pytest

from service.loop.values import Message
from service.models.chat_completions import COMPATIBLE, OPENAI, dialect_of, request_body
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.port import ModelRequest
from tests.models.contract import request
from tests.models.protocol_server import serving

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"


async def test_what_the_provider_sees() -> None:
    """The key goes into one header; encoding is identity; nothing is remembered between calls."""
    async with serving() as server:
        adapter = OpenAICompatibleAdapter(base_url=server.base_url, api_key=KEY, concurrency=4)
        await adapter.complete(request())
        await adapter.complete(request())
        await adapter.aclose()
        first, second = server.calls
        assert first.path == "/v1/chat/completions"
        assert first.headers["authorization"] == f"Bearer {KEY}"
        assert first.headers["accept-encoding"] == "identity"
        assert "cookie" not in second.headers
        assert first.body["stream"] is True
        assert first.body["stream_options"] == {"include_usage": True}
        assert first.body["max_tokens"] == 500


@pytest.mark.parametrize(
    ("host", "dialect"),
    [
        ("api.openai.com", OPENAI),
        ("eu.api.openai.com", OPENAI),
        ("mine.openai.azure.com", OPENAI),
        ("127.0.0.1", COMPATIBLE),
        ("openrouter.ai", COMPATIBLE),
        ("api.openai.com.example.org", COMPATIBLE),
        ("", COMPATIBLE),
    ],
)
async def test_hosts_have_their_dialect(host: str, dialect: object) -> None:
    """Only OpenAI's own hosts get OpenAI's own fields."""
    assert dialect_of(host) == dialect


async def test_bodies_differ_by_dialect() -> None:
    """OpenAI gets `max_completion_tokens` and the cache key, everybody else `max_tokens` alone."""
    sent = ModelRequest(
        model="m", messages=(Message(role="user", content="hi"),), max_output_tokens=7, cache_key="run_1"
    )
    ours, theirs = json.loads(request_body(sent, OPENAI)), json.loads(request_body(sent, COMPATIBLE))
    assert ours["max_completion_tokens"] == 7
    assert ours["prompt_cache_key"] == "run_1"
    assert "max_tokens" not in ours
    assert theirs["max_tokens"] == 7
    assert "prompt_cache_key" not in theirs
    assert "max_completion_tokens" not in theirs


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            True,
        ),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"type": ["object", "null"]}, False),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, False),
        ({"$defs": {"a": {"type": "object"}}, "type": "string"}, False),
        # What looks like a schema and is data.
        ({"type": "string", "default": {"type": "object", "required": [{}]}}, True),
        ({"const": {"properties": 1, "required": [[]]}}, True),
        ({"enum": [{"type": "object", "required": 5}]}, True),
    ],
)
async def test_strict_mode_only_where_it_is_taken(schema: dict[str, object], strict: bool) -> None:
    """OpenAI answers 400 to `strict` with an open schema, so it is set for closed ones only."""
    sent = ModelRequest(
        model="m", messages=(Message(role="user", content="hi"),), max_output_tokens=7, schema=dict(schema)
    )
    asked = json.loads(request_body(sent, OPENAI))["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is strict
    assert asked["json_schema"]["schema"] == schema
