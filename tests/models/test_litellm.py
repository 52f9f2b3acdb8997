"""LiteLLM in its process, against a real server: the contract, its deaths, and what it sees of the environment."""

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import CallOutcome
from service.models.litellm_bridge.adapter import LiteLLMAdapter
from service.models.litellm_bridge.failures import classify_litellm
from service.models.litellm_bridge.frames import LIMIT_BYTES, BrokenFrame, Decoder, encode
from service.models.litellm_bridge.process import LiteLLMProcess, worker_environment
from service.models.port import ModelAdapter, ModelCallFailed
from tests.models.contract import AdapterContract, gather, request
from tests.models.modes import Mode
from tests.models.protocol_server import QUOTED_KEY, ProtocolServer, refusing, serving

KEY = "sk-test-0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
async def process() -> AsyncIterator[LiteLLMProcess]:
    process = LiteLLMProcess({})
    await process.started()
    yield process
    await process.aclose()


def adapter_at(process: LiteLLMProcess, base_url: str, provider: str = "hosted_vllm") -> LiteLLMAdapter:
    return LiteLLMAdapter(process, provider=provider, api_key=KEY, base_url=base_url, concurrency=2)


def adapter_for(process: LiteLLMProcess, server: ProtocolServer, provider: str = "hosted_vllm") -> LiteLLMAdapter:
    return adapter_at(process, server.base_url, provider)


class TestLiteLLM(AdapterContract):
    sees_text_coming = False

    @pytest.fixture
    async def adapter(self, process: LiteLLMProcess) -> AsyncIterator[ModelAdapter]:
        async with serving() as server:
            adapter = adapter_for(process, server)
            yield adapter
            await adapter.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("provider", ["openai", "mistral", "together_ai", "deepseek"])
async def test_providers_that_speak_alike_are_called_alike(process: LiteLLMProcess, provider: str) -> None:
    """The provider's part of the name chooses LiteLLM's client; key, model and output limit arrive."""
    async with serving() as server:
        reply = await adapter_for(process, server, provider).complete(request(model="some-model"))
        (call,) = server.calls
    assert reply.text == "1298418"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body["model"] == "some-model"
    assert 500 in (call.body.get("max_tokens"), call.body.get("max_completion_tokens"))


@pytest.mark.anyio
async def test_a_provider_with_its_own_protocol_is_spoken_to_in_it(process: LiteLLMProcess) -> None:
    """Anthropic's protocol through LiteLLM gives the same text and the same count of tokens."""
    async with serving() as server:
        adapter = LiteLLMAdapter(
            process,
            provider="anthropic",
            api_key=KEY,
            base_url=server.base_url.removesuffix("/v1"),
            concurrency=1,
        )
        reply = await adapter.complete(request(model="claude-sonnet-4-5"))
        assert server.calls[0].path == "/v1/messages"
    assert reply.text == "1298418"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (24, 2)


@pytest.mark.anyio
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
        (Mode.HUNG_UP, CallOutcome.UNAVAILABLE, True),
    ],
)
async def test_each_misbehaviour_has_its_outcome(
    process: LiteLLMProcess, mode: Mode, outcome: CallOutcome, may_be_billed: bool
) -> None:
    """A provider's failures mean through LiteLLM what they mean without it, are asked once, and quote no key."""
    async with serving(mode=mode) as server:
        with pytest.raises(ModelCallFailed) as failed:
            await adapter_for(process, server).complete(request())
        assert len(server.calls) == 1
    assert failed.value.outcome is outcome
    assert failed.value.may_be_billed is may_be_billed
    assert KEY not in failed.value.message
    assert QUOTED_KEY not in failed.value.message
    assert "litellm" not in failed.value.message


@pytest.mark.anyio
async def test_a_refused_connection_is_not_billed(process: LiteLLMProcess) -> None:
    """A server that is not there did no work."""
    with refusing() as gone, pytest.raises(ModelCallFailed) as failed:
        await adapter_at(process, gone).complete(request())
    assert failed.value.outcome is CallOutcome.UNAVAILABLE
    assert not failed.value.may_be_billed


@pytest.mark.anyio
async def test_a_provider_without_an_output_limit_is_not_asked(process: LiteLLMProcess) -> None:
    """Where the limit would be dropped no call is made, since no reservation could hold."""
    async with serving() as server:
        with pytest.raises(ModelCallFailed, match="no limit on the length") as failed:
            await adapter_for(process, server, "morph").complete(request())
        assert not server.calls
    assert failed.value.outcome is CallOutcome.REFUSED


@pytest.mark.anyio
async def test_cancelling_hangs_up_on_the_provider(process: LiteLLMProcess) -> None:
    """A call that is given up here is given up there: the provider sees its connection close."""
    async with serving(mode=Mode.HELD) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(adapter_for(process, server).complete, request())
            await server.until_in_flight(1)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            await server.until_no_connection()
        server.mode = Mode.STREAM
        assert (await adapter_for(process, server).complete(request())).text == "1298418"


@pytest.mark.anyio
async def test_a_death_fails_its_calls_and_is_mended() -> None:
    """Killed in mid-call the process fails that call, which may be billed; a later call starts another and works."""
    pids: list[int] = []
    process = LiteLLMProcess({})
    async with serving(mode=Mode.HELD) as server:
        adapter = adapter_for(process, server)
        failed: list[ModelCallFailed] = []

        async def ask() -> None:
            failed.extend((await gather(adapter, [request()])).failures)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.until_in_flight(1)
            pids += [process.pid or 0]
            os.kill(pids[0], signal.SIGKILL)
        assert (failed[0].outcome, failed[0].may_be_billed) == (CallOutcome.UNAVAILABLE, True)
        with pytest.raises(ModelCallFailed) as soon:
            await adapter.complete(request())
        assert (soon.value.outcome, soon.value.may_be_billed) == (CallOutcome.UNAVAILABLE, False)
        assert soon.value.retry_after_s is not None
        await anyio.sleep(soon.value.retry_after_s)
        server.release.set()
        assert (await adapter.complete(request())).text == "1298418"
        pids += [process.pid or 0]
    await process.aclose()
    assert len(set(pids)) == 2
    assert all(_is_gone(pid) for pid in pids)
    with pytest.raises(ModelCallFailed, match="closed"):
        await adapter.complete(request())


@pytest.mark.anyio
async def test_what_hangs_is_ended(tmp_path: Path) -> None:
    """A process that keeps silent beyond a call's deadline fails the call, which may be billed, and is ended."""
    (tmp_path / "litellm.py").touch()  # is not asked for anything, and is there sooner
    process = LiteLLMProcess({"PYTHONPATH": str(tmp_path)}, grace_s=0.1)
    await process.started()
    pid = process.pid or 0
    ending = os.pidfd_open(pid)
    os.kill(pid, signal.SIGSTOP)
    adapter = LiteLLMAdapter(process, provider="mistral", api_key=KEY, base_url=None, concurrency=1)
    with pytest.raises(ModelCallFailed, match="hangs") as failed:
        await adapter.complete(replace(request(), timeout_s=0.1))
    assert failed.value.may_be_billed
    with anyio.fail_after(60):
        await anyio.wait_readable(ending)
    os.close(ending)
    await process.aclose()


@pytest.mark.anyio
async def test_a_deadline_before_anything_was_sent_costs_nothing(process: LiteLLMProcess) -> None:
    """A call whose time is over while its connection is still being made is not billed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        adapter = LiteLLMAdapter(process, provider="hosted_vllm", api_key=KEY, base_url=address, concurrency=1)
        with pytest.raises(ModelCallFailed) as failed:
            await adapter.complete(replace(request(), timeout_s=0.5))
    assert (failed.value.outcome, failed.value.may_be_billed) == (CallOutcome.TIMED_OUT, False)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.anyio
async def test_an_installation_without_litellm_is_told(tmp_path: Path) -> None:
    """A process that cannot import LiteLLM says why before it ends."""
    (tmp_path / "litellm.py").write_text("raise ImportError('half of it is missing')")
    process = LiteLLMProcess({"PYTHONPATH": str(tmp_path)})
    with pytest.raises(ModelCallFailed, match="did not start: ImportError: half of it") as failed:
        await process.started()
    assert not failed.value.may_be_billed
    await process.aclose()


def test_the_process_sees_no_keys() -> None:
    """Keys travel with each call; only clouds' credentials, which are more than one key, stand in its environment."""
    environment = {
        "OPENAI_API_KEY": KEY,
        "GEMINI_API_KEY": KEY,
        "RLM_REDIS_URL": "redis://:password@host",
        "HTTPS_PROXY": "http://elsewhere",
        "AWS_ACCESS_KEY_ID": "AKIA",
        "PATH": "/bin",
    }
    seen = worker_environment(environment)
    assert seen.keys() & environment.keys() == {"AWS_ACCESS_KEY_ID", "PATH"}
    assert seen["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


def test_importing_it_asks_no_network() -> None:
    """The process's import of LiteLLM opens no connection: run where every connection fails loudly, it is silent."""
    code = (
        "import os, socket\n"
        "from service.models.litellm_bridge.frames import ENVIRONMENT\n"
        "from service.models.litellm_bridge.worker import _import_litellm\n"
        "os.environ.update(ENVIRONMENT)\n"
        "def refuse(*args, **kwargs):\n"
        "    raise SystemExit('the import wants to connect')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "litellm = _import_litellm()\n"
        "assert litellm.drop_params and not litellm.callbacks and litellm.cache is None\n"
        "assert 'gpt-4o' in litellm.model_cost\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_service_itself_does_not_import_litellm() -> None:
    """Neither the adapter nor the catalog loads it; the process does."""
    code = (
        "import sys\n"
        "import service.models.catalog, service.models.litellm_bridge.adapter\n"
        "assert 'litellm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


FRAMES = st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=30) | st.integers(), max_size=3), max_size=5)


@given(FRAMES, st.lists(st.integers(1, 40), min_size=1))
def test_any_chunking_gives_the_same_frames(frames: list[dict[str, Any]], sizes: list[int]) -> None:
    """Frames arrive as they were sent, however the bytes are cut."""
    data = b"".join(encode(frame) for frame in frames)
    decoder, found = Decoder(), []
    cuts = itertools.cycle(sizes)
    at = 0
    while at < len(data):
        end = at + next(cuts)
        found += decoder.feed(data[at:end])
        at = end
    assert found == frames


@pytest.mark.parametrize(
    "data",
    [
        (LIMIT_BYTES + 1).to_bytes(4, "big"),
        (3).to_bytes(4, "big") + b"{x}",
        (2).to_bytes(4, "big") + b"[]",
        (200_000).to_bytes(4, "big") + b"[" * 200_000,
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    """Lengths beyond the limit and bodies that are no objects end the connection instead of filling memory."""
    with pytest.raises(BrokenFrame):
        Decoder().feed(data)


@pytest.mark.parametrize(
    ("error", "outcome", "may_be_billed"),
    [
        ({"kind": "Timeout"}, CallOutcome.TIMED_OUT, True),
        ({"kind": "Timeout", "status": 408}, CallOutcome.UNAVAILABLE, False),
        ({"kind": "Timeout", "stage": "connecting"}, CallOutcome.UNAVAILABLE, False),
        ({"kind": "ContextWindowExceededError", "status": 400}, CallOutcome.TOO_LONG, False),
        ({"kind": "ContextWindowExceededError", "stage": "unasked"}, CallOutcome.TOO_LONG, False),
        ({"kind": "ContextWindowExceededError", "status": 200}, CallOutcome.INVALID_REPLY, True),
        ({"kind": "ContentPolicyViolationError", "status": 400}, CallOutcome.REFUSED, False),
        ({"kind": "ContentPolicyViolationError", "status": 200}, CallOutcome.REFUSED, True),
        ({"kind": "AuthenticationError", "status": 401}, CallOutcome.REFUSED, False),
        ({"kind": "AuthenticationError", "claimed": 401}, CallOutcome.UNAVAILABLE, True),
        ({"kind": "BadRequestError", "claimed": 400, "stage": "unasked"}, CallOutcome.REFUSED, False),
        ({"kind": "APIConnectionError", "claimed": 500}, CallOutcome.UNAVAILABLE, True),
        ({"kind": "ConnectError", "stage": "sent"}, CallOutcome.UNAVAILABLE, True),
        ({"kind": "APIConnectionError", "stage": "connecting"}, CallOutcome.UNAVAILABLE, False),
        ({"kind": "APIConnectionError", "stage": "unasked", "refusal": "connection"}, CallOutcome.REFUSED, False),
        ({"kind": "NotAllowed", "status": 307, "refusal": "redirect"}, CallOutcome.INVALID_REPLY, True),
        ({"kind": "NotAllowed", "status": 200, "refusal": "second_request"}, CallOutcome.INVALID_REPLY, True),
        ({"kind": "UnprocessableEntityError", "claimed": 422, "status": 200}, CallOutcome.INVALID_REPLY, True),
        ({"kind": "ServiceUnavailableError", "status": 503}, CallOutcome.UNAVAILABLE, False),
        ({"kind": "APIResponseValidationError", "status": 200}, CallOutcome.INVALID_REPLY, True),
        ({"kind": "ReplyTooLong"}, CallOutcome.INVALID_REPLY, True),
        ({"kind": "KeyError", "message": "'choices'"}, CallOutcome.UNAVAILABLE, True),
        ({"kind": "KeyError", "status": 7, "headers": 7}, CallOutcome.UNAVAILABLE, True),
        ({}, CallOutcome.UNAVAILABLE, True),
    ],
)
def test_errors_are_told_apart(error: dict[str, Any], outcome: CallOutcome, may_be_billed: bool) -> None:
    """Only what was never sent, or what the provider itself refused, is not billed, whatever class LiteLLM raises."""
    failed = classify_litellm(error, provider="gemini", now=NOW, secrets=(KEY,))
    assert (failed.outcome, failed.may_be_billed) == (outcome, may_be_billed)


def test_a_missing_key_is_told_from_a_bad_one() -> None:
    """Where no key is configured, the message says that one is wanted."""
    error = {"kind": "AuthenticationError", "status": 401, "message": "litellm.AuthenticationError: no"}
    assert "wants a key" in classify_litellm(error, provider="gemini", now=NOW).message
    assert "key was refused" in classify_litellm(error, provider="gemini", now=NOW, secrets=(KEY,)).message
