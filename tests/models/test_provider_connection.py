"""The adapters that speak HTTP natively, against a real server that behaves badly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.loop.values import CallOutcome, Message
from service.models.anthropic_messages import AnthropicAdapter
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.port import ModelAdapter, ModelCallFailed, ModelRequest
from tests.models.certificates import certificate
from tests.models.contract import PROMPT, gather, request
from tests.models.modes import Mode
from tests.models.protocol_server import QUOTED_KEY, RETRY_AFTER_S, ProtocolServer, refusing, serving

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
Kind = type[OpenAICompatibleAdapter] | type[AnthropicAdapter]


@pytest.fixture(params=[OpenAICompatibleAdapter, AnthropicAdapter])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@asynccontextmanager
async def against(
    kind: Kind,
    mode: Mode,
    *,
    api_key: str | None = KEY,
    concurrency: int = 4,
    idle_s: float = 30.0,
    response_limit_bytes: int = 1 << 20,
) -> AsyncIterator[tuple[ModelAdapter, ProtocolServer]]:
    async with serving(mode=mode) as server:
        adapter = kind(
            base_url=server.base_url,
            api_key=api_key,
            concurrency=concurrency,
            idle_s=idle_s,
            response_limit_bytes=response_limit_bytes,
        )
        try:
            yield adapter, server
        finally:
            await adapter.aclose()


@pytest.mark.parametrize(
    ("mode", "outcome", "may_be_billed"),
    [
        (Mode.RATE_LIMITED, CallOutcome.RATE_LIMITED, False),
        (Mode.QUOTA, CallOutcome.REFUSED, False),
        (Mode.BAD_KEY, CallOutcome.REFUSED, False),
        (Mode.UNKNOWN_MODEL, CallOutcome.REFUSED, False),
        (Mode.TOO_LONG, CallOutcome.TOO_LONG, False),
        (Mode.SERVER_ERROR, CallOutcome.UNAVAILABLE, True),
        (Mode.OVERLOADED, CallOutcome.UNAVAILABLE, False),
        (Mode.SITE_OVERLOADED, CallOutcome.UNAVAILABLE, False),
        (Mode.REDIRECT, CallOutcome.INVALID_REPLY, True),
        (Mode.CONTENT_FILTER, CallOutcome.REFUSED, True),
        (Mode.REFUSAL, CallOutcome.REFUSED, True),
        (Mode.ERROR_IN_STREAM, CallOutcome.UNAVAILABLE, True),
        (Mode.BROKEN_STREAM, CallOutcome.UNAVAILABLE, True),
        (Mode.UNFINISHED_STREAM, CallOutcome.UNAVAILABLE, True),
        (Mode.HUNG_UP, CallOutcome.UNAVAILABLE, True),
        (Mode.NOT_HTTP, CallOutcome.INVALID_REPLY, True),
        (Mode.WRONG_JSON, CallOutcome.INVALID_REPLY, True),
        (Mode.WRONG_SHAPE, CallOutcome.INVALID_REPLY, True),
        (Mode.DEEP_JSON, CallOutcome.INVALID_REPLY, True),
        (Mode.COMPRESSED, CallOutcome.INVALID_REPLY, True),
        (Mode.HUGE_LINE, CallOutcome.INVALID_REPLY, True),
        (Mode.ENDLESS, CallOutcome.INVALID_REPLY, True),
    ],
)
async def test_each_misbehaviour_has_its_outcome(
    kind: Kind, mode: Mode, outcome: CallOutcome, may_be_billed: bool
) -> None:
    """Whatever a server does, the call fails with one outcome and says whether money may be gone."""
    async with against(kind, mode) as (adapter, _):
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(request())
        assert failed.value.outcome is outcome
        assert failed.value.may_be_billed is may_be_billed
        assert "\n" not in failed.value.message
        assert KEY not in failed.value.message
        assert QUOTED_KEY not in failed.value.message


@pytest.mark.parametrize("mode", [Mode.SLOW_DRIP, Mode.STALLED, Mode.SILENT])
async def test_the_deadline_is_total(kind: Kind, mode: Mode) -> None:
    """A server that drips, stalls or says nothing holds a call no longer than its deadline."""
    async with against(kind, mode) as (adapter, _):
        sent = ModelRequest(
            model="sub", messages=(Message(role="user", content=PROMPT),), max_output_tokens=10, timeout_s=0.2
        )
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(sent)
        assert failed.value.outcome is CallOutcome.TIMED_OUT
        assert failed.value.may_be_billed


async def test_a_reply_that_stands_still_is_given_up(kind: Kind) -> None:
    """Between the bytes of a reply that has begun, the idle bound holds, long before the deadline."""
    async with against(kind, Mode.STALLED, idle_s=0.1) as (adapter, _):
        with pytest.raises(ModelCallFailed, match="stood still") as failed:
            await adapter.complete(request())
        assert failed.value.outcome is CallOutcome.TIMED_OUT


@pytest.mark.parametrize("mode", [Mode.SINGLE_BYTES, Mode.NO_DONE, Mode.WHOLE])
async def test_good_replies_come_in_several_forms(kind: Kind, mode: Mode) -> None:
    """Chunking does not matter, a missing `[DONE]` does not, and servers that cannot stream work."""
    async with against(kind, mode) as (adapter, _):
        reply = await adapter.complete(request())
        assert reply.text == "1298418"
        assert reply.usage is not None


@pytest.mark.parametrize("mode", [Mode.NO_USAGE, Mode.LYING_USAGE])
async def test_usage_that_cannot_be_true_is_none(kind: Kind, mode: Mode) -> None:
    """Missing and impossible token counts are both None, and the text still counts."""
    async with against(kind, mode) as (adapter, _):
        reply = await adapter.complete(request())
        assert reply.text == "1298418"
        assert reply.usage is None


async def test_a_rate_limit_says_how_long_to_wait(kind: Kind) -> None:
    """`Retry-After` reaches the caller."""
    async with against(kind, Mode.RATE_LIMITED) as (adapter, _):
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(request())
        assert failed.value.retry_after_s == RETRY_AFTER_S


async def test_a_missing_key_is_told_from_a_bad_one(kind: Kind) -> None:
    """Where no key is configured, the message says that one is wanted."""
    async with against(kind, Mode.BAD_KEY, api_key=None) as (adapter, server):
        with pytest.raises(ModelCallFailed, match="wants a key"):
            await adapter.complete(request())
        assert not {"authorization", "x-api-key"} & server.calls[0].headers.keys()


async def test_a_refused_connection_is_not_billed(kind: Kind) -> None:
    """A server that is not there did no work, and whoever asked is not told where it would be."""
    with refusing() as gone:
        adapter = kind(base_url=gone, api_key=None, concurrency=1)
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(request())
        await adapter.aclose()
    assert failed.value.outcome is CallOutcome.UNAVAILABLE
    assert not failed.value.may_be_billed
    assert "cannot be reached" in failed.value.message
    assert "127.0.0.1" not in failed.value.message


async def test_proxies_of_the_environment_are_not_asked(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY does not redirect prompts to somebody else."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with against(kind, Mode.STREAM) as (adapter, _):
        assert (await adapter.complete(request())).text == "1298418"


async def test_connections_are_reused(kind: Kind) -> None:
    """One call after another goes over one connection, whether it streamed, failed cleanly or came whole."""
    async with against(kind, Mode.STREAM) as (adapter, server):
        server.plan.extend([Mode.STREAM, Mode.WHOLE, Mode.RATE_LIMITED, Mode.STREAM, Mode.BAD_KEY, Mode.STREAM])
        for _ in range(6):
            await gather(adapter, [request()])
        assert len(server.calls) == 6
        assert server.connections == 1


async def test_no_more_calls_in_flight_than_slots(kind: Kind) -> None:
    """The provider never sees more calls at once than its concurrency."""
    async with against(kind, Mode.HELD, concurrency=3) as (adapter, server):
        async with anyio.create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(adapter.complete, request())
            await server.until_in_flight(3)
            server.release.set()
        assert len(server.calls) == 9
        assert server.most_in_flight == 3


async def test_closing_leaves_no_connection(kind: Kind) -> None:
    """The provider sees its connection, which was kept for the next call, close with the adapter."""
    async with against(kind, Mode.STREAM) as (adapter, server):
        await adapter.complete(request())
        assert server.open_connections == 1
        await adapter.aclose()
        assert "closed" in repr(adapter)
        with anyio.fail_after(60):
            await server.until_no_connection()


async def test_the_repr_has_no_key(kind: Kind) -> None:
    """What lands in logs does not quote the key."""
    adapter = kind(base_url="https://api.example.org/v1", api_key=KEY, concurrency=1)
    assert KEY not in repr(adapter)
    assert "api.example.org" in repr(adapter)


async def test_a_certificate_that_nobody_vouches_for_is_named(tmp_path: Path, kind: Kind) -> None:
    """Nothing is sent to a server that is not trusted, and the message speaks of its certificate, not its absence."""
    context, _ = certificate(tmp_path)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        adapter = kind(base_url=address, api_key=KEY, concurrency=1)
        with pytest.raises(ModelCallFailed, match=r"certificate of the provider \w+ is not trusted") as failed:
            await adapter.complete(request())
        assert not failed.value.may_be_billed
        assert "127.0.0.1" not in failed.value.message
        await adapter.aclose()


async def test_a_call_that_waits_while_the_pool_is_closed_opens_nothing(kind: Kind) -> None:
    """It is told that the pool is closed when its turn comes, and no server hears of it."""
    async with against(kind, Mode.STREAM, concurrency=1) as (adapter, server):
        server.plan.append(Mode.HELD)
        failures: list[ModelCallFailed] = []

        async def call() -> None:
            try:
                await adapter.complete(request())
            except ModelCallFailed as failure:
                failures.append(failure)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as calls:
                calls.start_soon(call)
                await server.until_in_flight(1)
                calls.start_soon(call)
                await anyio.lowlevel.checkpoint()
                await adapter.aclose()
        assert [failure.outcome for failure in failures] == [CallOutcome.UNAVAILABLE] * 2
        assert "closed" in str(failures[1])
        assert len(server.calls) == 1
