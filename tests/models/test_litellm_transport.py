"""One request a call, told as it was: what LiteLLM's process sends to servers that misbehave on the wire."""

import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from service.loop.values import CallOutcome
from service.models.litellm_bridge.adapter import LiteLLMAdapter
from service.models.litellm_bridge.process import LiteLLMProcess
from service.models.litellm_bridge.transport import is_link_local
from service.models.port import ModelCallFailed
from tests.models.contract import request

KEY = "sk-test-0123456789abcdef"
PROVIDERS = ["openai", "azure", "anthropic", "mistral", "gemini", "groq", "ollama_chat"]
"""Through the SDK's client and LiteLLM's own, with the key as a bearer, in other headers, and in the address."""


@pytest.fixture(scope="module")
async def process() -> AsyncIterator[LiteLLMProcess]:
    process = LiteLLMProcess({})
    await process.started()
    yield process
    await process.aclose()


class Wire:
    """A server on loopback that reads a request whole and then does to the connection what it was made for."""

    def __init__(self, end: Callable[[], bytes | None]) -> None:
        self._end = end
        self.port = 0
        self.requests: list[bytes] = []

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        received = bytearray()
        async with stream:
            while not _is_whole(bytes(received)):
                try:
                    received += await stream.receive()
                except anyio.EndOfStream:
                    return
            self.requests.append(bytes(received))
            reply = self._end()
            if reply is None:
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif reply:
                await stream.send(reply)


def _is_whole(received: bytes) -> bool:
    head, blank, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *([0-9]+)", head, re.IGNORECASE)
    return bool(blank) and length is not None and len(body) >= int(length[1])


@asynccontextmanager
async def wire(end: Callable[[], bytes | None]) -> AsyncIterator[Wire]:
    server = Wire(end)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


async def failure(process: LiteLLMProcess, provider: str, port: int) -> ModelCallFailed:
    adapter = LiteLLMAdapter(
        process, provider=provider, api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", concurrency=1
    )
    with pytest.raises(ModelCallFailed) as failed:
        await adapter.complete(request(model="some-model"))
    assert KEY not in failed.value.message
    return failed.value


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "content-type: application/json", *headers]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + body


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_reset_after_work_is_billed_and_not_sent_again(process: LiteLLMProcess, provider: str) -> None:
    """A connection that is reset once the prompt has arrived is one request, and one that may be billed."""
    async with wire(lambda: None) as server:
        failed = await failure(process, provider, server.port)
        assert len(server.requests) == 1
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.UNAVAILABLE, True)


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_close_without_a_reply_is_billed_and_not_sent_again(process: LiteLLMProcess, provider: str) -> None:
    """A connection that closes where a reply should be is one request, and one that may be billed."""
    async with wire(lambda: b"") as server:
        failed = await failure(process, provider, server.port)
        assert len(server.requests) == 1
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.UNAVAILABLE, True)


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_redirect_leaks_neither_key_nor_prompt(process: LiteLLMProcess, provider: str) -> None:
    """A redirect to another origin is an invalid reply that may be billed, and that origin hears nothing."""
    async with wire(lambda: http("200 OK", b"{}")) as other:
        location = f"location: http://localhost:{other.port}/stolen"
        async with wire(lambda: http("307 Temporary Redirect", b"", location)) as server:
            failed = await failure(process, provider, server.port)
            assert len(server.requests) == 1
        assert not other.requests
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.INVALID_REPLY, True)


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("body", [b"[1,2]", b"{", b'{"choices": 7}'])
async def test_an_unreadable_success_is_billed(process: LiteLLMProcess, provider: str, body: bytes) -> None:
    """HTTP 200 with a body that is no completion may be billed, whatever status LiteLLM makes of it."""
    async with wire(lambda: http("200 OK", body)) as server:
        failed = await failure(process, provider, server.port)
        assert len(server.requests) == 1
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.INVALID_REPLY, True)


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_half_a_reply_is_billed_and_not_sent_again(process: LiteLLMProcess, provider: str) -> None:
    """A success whose body breaks off is one request, may be billed, and is not blamed on the provider's protocol."""
    async with wire(lambda: http("200 OK", b'{"id": "half of it"}')[:-9]) as server:
        failed = await failure(process, provider, server.port)
        assert len(server.requests) == 1
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.INVALID_REPLY, True)
    assert "cannot be read" in failed.message


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_refusal_is_asked_once_and_not_billed(process: LiteLLMProcess, provider: str) -> None:
    """HTTP 422 of the provider's own is no bill, and no reason to send a changed request."""
    async with wire(lambda: http("422 Unprocessable Entity", b'{"error": {"message": "no"}}')) as server:
        failed = await failure(process, provider, server.port)
        assert len(server.requests) == 1
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.REFUSED, False)


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_nobody_there_is_no_bill(process: LiteLLMProcess, provider: str) -> None:
    """Where no connection is made nothing was sent."""
    async with wire(lambda: b"") as server:
        pass
    failed = await failure(process, provider, server.port)
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.UNAVAILABLE, False)


@pytest.mark.anyio
async def test_a_client_that_is_not_ours_reaches_nobody(process: LiteLLMProcess) -> None:
    """A provider whose client brings its own connections is refused in a clear sentence before anything is sent."""
    async with wire(lambda: b"") as server:
        failed = await failure(process, "aiohttp_openai", server.port)
        assert not server.requests
    assert (failed.outcome, failed.may_be_billed) == (CallOutcome.REFUSED, False)
    assert "cannot be controlled" in failed.message


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("169.254.169.254", 80), True),
        (("169.254.170.2", 80), True),
        (("fe80::1", 80, 0, 2), True),
        (("127.0.0.1", 80), False),
        (("192.0.2.1", 443), False),
        (("metadata.example", 80), False),
        ("/run/a.sock", False),
        ((), False),
    ],
)
def test_looking_for_credentials_on_the_own_link_asks_no_model(address: object, expected: bool) -> None:
    """A cloud's metadata service stands on the machine's own link; nothing else is taken for one."""
    assert is_link_local(address) is expected
