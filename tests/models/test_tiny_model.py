"""The OpenAI-compatible adapter against a real server with a real, very small language model."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from service.loop.values import CallOutcome, Message
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.port import ModelCallFailed, ModelRequest
from service.models.prices import input_token_bound
from tests.models.tiny_model import WINDOW_TOKENS, serving_tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.needs_tiny_model]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serving_tiny_model() as url:
        yield url


@pytest.fixture
async def adapter(base_url: str) -> AsyncIterator[OpenAICompatibleAdapter]:
    adapter = OpenAICompatibleAdapter(base_url=base_url, api_key=None, concurrency=2)
    yield adapter
    await adapter.aclose()


def asking(prompt: str, **options: object) -> ModelRequest:
    return ModelRequest(
        model="smollm2",
        messages=(Message(role="system", content="You are terse."), Message(role="user", content=prompt)),
        max_output_tokens=16 if "schema" not in options else 64,
        schema=options.get("schema"),  # type: ignore[arg-type]
        timeout_s=60.0,
    )


async def test_a_real_model_replies_within_its_bounds(adapter: OpenAICompatibleAdapter) -> None:
    """Text and usage arrive from a real server, and its tokenizer stays under the byte bound."""
    sent = asking("Name the capital of France. Ünïcödé, 日本語, 🎈.")
    reply = await adapter.complete(sent)
    assert reply.text.strip()
    assert reply.usage is not None
    assert 0 < reply.usage.output_tokens <= 16
    assert 0 < reply.usage.input_tokens <= input_token_bound(sent.messages)


async def test_a_real_model_keeps_to_a_schema(adapter: OpenAICompatibleAdapter) -> None:
    """The schema reaches the server in the form that it understands."""
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    reply = await adapter.complete(asking("Which colour has grass?", schema=schema))
    assert json.loads(reply.text)["colour"] in ("red", "green")


async def test_a_real_window_overflows(adapter: OpenAICompatibleAdapter) -> None:
    """A prompt over the window is recognised as too long from the server's own words."""
    with pytest.raises(ModelCallFailed) as failed:
        await adapter.complete(asking("one two three four " * WINDOW_TOKENS))
    assert failed.value.outcome is CallOutcome.TOO_LONG
    assert not failed.value.may_be_billed
