"""What every model adapter does, whatever is behind it. Each adapter's tests subclass `AdapterContract`."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import anyio
import pytest

from service.loop.values import CallOutcome, Message
from service.models.port import ModelAdapter, ModelCallFailed, ModelReply, ModelRequest
from service.models.prices import input_token_bound

PROMPT = "Question: What is the magic number?\n\nText:\nNothing here.\nThe magic number is 1298418.\nNor here."


def request(prompt: str = PROMPT, *, max_output_tokens: int = 500, model: str = "sub") -> ModelRequest:
    return ModelRequest(
        model=model, messages=(Message(role="user", content=prompt),), max_output_tokens=max_output_tokens
    )


@dataclass
class Gathered:
    """What several calls came to."""

    replies: list[ModelReply] = field(default_factory=list)
    failures: list[ModelCallFailed] = field(default_factory=list)


async def gather(adapter: ModelAdapter, requests: list[ModelRequest]) -> Gathered:
    """Make the calls at the same time."""
    gathered = Gathered()

    async def one(each: ModelRequest) -> None:
        try:
            gathered.replies.append(await adapter.complete(each))
        except ModelCallFailed as failure:
            gathered.failures.append(failure)

    async with anyio.create_task_group() as tasks:
        for each in requests:
            tasks.start_soon(one, each)
    return gathered


@pytest.mark.anyio
class AdapterContract:
    """Subclasses give `opened`, an adapter whose provider is the scripted model, with room for two calls at once."""

    sees_text_coming = True
    """Whether its provider sends replies piece by piece, and it looks at the pieces."""

    def opened(self) -> AbstractAsyncContextManager[ModelAdapter]:
        raise NotImplementedError

    @pytest.fixture
    async def adapter(self) -> AsyncIterator[ModelAdapter]:
        async with self.opened() as adapter:
            yield adapter

    async def test_a_reply_is_text_with_its_usage(self, adapter: ModelAdapter) -> None:
        """A good call returns the text, why it stopped, and what it used."""
        reply = await adapter.complete(request())
        assert reply.text == "1298418"
        assert reply.finish_reason == "stop"
        assert reply.usage is not None
        assert reply.usage.output_tokens == 2

    async def test_the_same_request_gets_the_same_reply(self, adapter: ModelAdapter) -> None:
        """The scripted model is deterministic through every adapter."""
        assert await adapter.complete(request()) == await adapter.complete(request())

    async def test_text_is_told_as_it_comes(self, adapter: ModelAdapter) -> None:
        """Whoever listens hears all of the reply in order, where the adapter sees it coming; else none of it, never
        anything that is not in it. The reply is the same."""
        told: list[str] = []
        long = request("A sentence that goes on and on. " * 20)
        reply = await adapter.complete(replace(long, on_text=told.append))
        assert "".join(told) == (reply.text if self.sees_text_coming else "")
        assert reply == await adapter.complete(long)

    async def test_usage_stays_within_the_bound(self, adapter: ModelAdapter) -> None:
        """What is billed is never more than what is reserved for."""
        sent = request(max_output_tokens=3)
        reply = await adapter.complete(sent)
        assert reply.usage is not None
        assert reply.usage.input_tokens <= input_token_bound(sent.messages)
        assert reply.usage.output_tokens <= 3

    async def test_the_output_limit_cuts_and_is_told(self, adapter: ModelAdapter) -> None:
        """A reply that reaches its limit is cut there and says `length`."""
        reply = await adapter.complete(request("A sentence that goes on and on and on", max_output_tokens=2))
        assert reply.finish_reason == "length"
        assert len(reply.text) == 8

    async def test_text_of_any_script_survives(self, adapter: ModelAdapter) -> None:
        """Characters outside ASCII arrive as they were sent, lone surrogates harmlessly replaced."""
        reply = await adapter.complete(request("Wörter 語 🎈 \ud800 und sonst nichts"))
        assert reply.text.startswith("Wörter 語 🎈 ")

    async def test_a_schema_gets_json(self, adapter: ModelAdapter) -> None:
        """A schema reaches the model."""
        schema = {"type": "object", "properties": {"magic_number": {"type": "integer"}}, "required": ["magic_number"]}
        sent = ModelRequest(
            model="sub", messages=(Message(role="user", content=PROMPT),), max_output_tokens=100, schema=schema
        )
        assert (await adapter.complete(sent)).text == '{"magic_number": 1298418}'

    async def test_the_deadline_ends_a_call(self, adapter: ModelAdapter) -> None:
        """A call that takes longer than its deadline has timed out. Only one that was not sent yet is not billed."""
        sent = ModelRequest(
            model="sub?latency_ms=60000",
            messages=(Message(role="user", content=PROMPT),),
            max_output_tokens=10,
            timeout_s=0.05,
        )
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(sent)
        assert failed.value.outcome is CallOutcome.TIMED_OUT

    async def test_a_failure_says_which(self, adapter: ModelAdapter) -> None:
        """A provider's failures are told apart, with the wait it asks for."""
        for name, outcome in (
            ("rate_limited", CallOutcome.RATE_LIMITED),
            ("unavailable", CallOutcome.UNAVAILABLE),
            ("refused", CallOutcome.REFUSED),
            ("too_long", CallOutcome.TOO_LONG),
        ):
            with pytest.raises(ModelCallFailed) as failed:
                await adapter.complete(request(model=f"sub?fail_every=1&fail_with={name}"))
            assert failed.value.outcome is outcome
            assert (failed.value.retry_after_s is not None) == (outcome is CallOutcome.RATE_LIMITED)
            assert not failed.value.may_be_billed

    async def test_calls_run_side_by_side_and_all_are_answered(self, adapter: ModelAdapter) -> None:
        """More calls than there is room for wait their turn."""
        prompts = [PROMPT.replace("1298418", str(number)) for number in range(1000, 1020)]
        gathered = await gather(adapter, [request(prompt) for prompt in prompts])
        assert sorted(reply.text for reply in gathered.replies) == [str(number) for number in range(1000, 1020)]

    async def test_a_cancelled_call_leaves_the_adapter_usable(self, adapter: ModelAdapter) -> None:
        """Cancelling gives the slot back."""
        for _ in range(4):
            with anyio.move_on_after(0.02):
                await adapter.complete(request(model="sub?latency_ms=60000"))
        assert (await adapter.complete(request())).text == "1298418"

    async def test_a_closed_adapter_calls_nobody(self, adapter: ModelAdapter) -> None:
        """After `aclose` a call fails at once and is not billed."""
        await adapter.aclose()
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(request())
        assert failed.value.outcome is CallOutcome.UNAVAILABLE
        assert not failed.value.may_be_billed
