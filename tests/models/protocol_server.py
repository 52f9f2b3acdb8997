"""A server on loopback that speaks OpenAI's chat completions and Anthropic's messages, well or badly, on raw sockets.

Its replies come from the scripted model, so whole runs can be driven through a real HTTP provider:

    python -m tests.models.protocol_server --port 0 --script root        # prints its base URL

In tests: `async with serving() as server`, then set `server.mode`, or `server.plan` for the next calls one by one.
"""

import argparse
import gzip
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from service.loop.values import CallOutcome
from service.models.port import ModelAdapter, ModelCallFailed, ModelReply, ModelRequest
from service.models.scripted.adapter import ScriptedAdapter
from service.models.scripted.script import ScriptUnknown, parse_script
from tests.models.completions_dialect import ChatCompletions
from tests.models.messages_dialect import Messages, PrefixCache
from tests.models.modes import Mode

HEAD_LIMIT_BYTES = 64 << 10
BODY_LIMIT_BYTES = 64 << 20
RETRY_AFTER_S = 2
QUOTED_KEY = "sk-proj-abcdefghijklmnop1234567890"
"""What a careless provider quotes in its messages."""


class Dialect(Protocol):
    """A protocol as the server speaks it."""

    def request(self, body: dict[str, Any], model: str) -> ModelRequest: ...

    def error(self, code: str, message: str) -> dict[str, Any]: ...

    def document(self, reply: ModelReply) -> dict[str, Any]: ...

    def events(self, reply: ModelReply, mode: Mode) -> list[bytes]: ...

    def more(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    peer_port: int


@dataclass
class ProtocolServer:
    """What a test sees of the server."""

    base_url: str
    script: str | None
    """Played under every model name that is not a script itself; None where another model answers."""
    mode: Mode = Mode.STREAM
    plan: deque[Mode] = field(default_factory=deque)
    """Modes of the next calls; `mode` when it is empty."""
    calls: list[Received] = field(default_factory=list)
    open_connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    cache: PrefixCache = field(default_factory=PrefixCache)
    release: anyio.Event = field(default_factory=anyio.Event)
    arrived: anyio.Condition = field(default_factory=anyio.Condition)
    hung_up: anyio.Condition = field(default_factory=anyio.Condition)

    async def until_in_flight(self, calls: int) -> None:
        """Returns once that many calls are being answered."""
        async with self.arrived:
            while self.in_flight < calls:
                await self.arrived.wait()

    async def until_no_connection(self) -> None:
        """Returns once the clients have closed all theirs."""
        async with self.hung_up:
            while self.open_connections:
                await self.hung_up.wait()

    @property
    def connections(self) -> int:
        return len({call.peer_port for call in self.calls})


@asynccontextmanager
async def serving(
    *, script: str = "sub", mode: Mode = Mode.STREAM, port: int = 0, model: ModelAdapter | None = None
) -> AsyncIterator[ProtocolServer]:
    """A running server; it and all its connections are gone afterwards.

    Its replies come from `model` where one is given, under the names that clients ask for, else from the script.
    """
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    bound = listener.extra(SocketAttribute.local_port)
    server = ProtocolServer(
        base_url=f"http://127.0.0.1:{bound}/v1", script=script if model is None else None, mode=mode
    )
    adapter = model or ScriptedAdapter(concurrency=256)

    async def serve_connection(stream: SocketStream) -> None:
        server.open_connections += 1
        async with stream:
            await _Connection(server, adapter, stream).serve()
        async with server.hung_up:
            server.open_connections -= 1
            server.hung_up.notify_all()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve_connection)
        yield server
        tasks.cancel_scope.cancel()


@contextmanager
def refusing() -> Iterator[str]:
    """A base URL at which nobody listens; its port is nobody else's for the time of the block."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


class _Connection:
    def __init__(self, server: ProtocolServer, adapter: ModelAdapter, stream: SocketStream) -> None:
        self._server = server
        self._adapter = adapter
        self._stream = stream
        self._input = BufferedByteReceiveStream(stream)

    async def serve(self) -> None:
        try:
            while (received := await self._receive()) is not None:
                server = self._server
                server.calls.append(received)
                server.in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.in_flight)
                async with server.arrived:
                    server.arrived.notify_all()
                try:
                    mode = server.plan.popleft() if server.plan else server.mode
                    if not await self._answer(received, mode):
                        return
                finally:
                    server.in_flight -= 1
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            return  # the client went away, as many tests want

    async def _receive(self) -> Received | None:
        try:
            head = (await self._input.receive_until(b"\r\n\r\n", HEAD_LIMIT_BYTES)).decode("latin-1")
        except anyio.IncompleteRead:
            return None
        request_line, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        assert length <= BODY_LIMIT_BYTES
        body = await self._input.receive_exactly(length) if length else b"{}"
        port = self._stream.extra(SocketAttribute.remote_port)
        return Received(path=request_line.split(" ")[1], headers=headers, body=json.loads(body), peer_port=port)

    async def _answer(self, received: Received, mode: Mode) -> bool:
        """Answer one call; whether the connection can be used again."""
        dialect: Dialect = Messages(self._server.cache) if received.path.endswith("/messages") else ChatCompletions()
        if mode in _ERRORS:
            status, headers, error = _ERRORS[mode]
            await self._send_whole(status, dialect.error(*error) if error else {}, headers)
            return True
        if mode is Mode.HELD and not await self._released():
            return False
        if mode in (Mode.HUNG_UP, Mode.NOT_HTTP, Mode.SILENT, Mode.COMPRESSED, Mode.HUGE_LINE):
            return await self._misbehave(mode)
        try:
            reply = await self._adapter.complete(dialect.request(received.body, self._model(received.body["model"])))
        except ModelCallFailed as failure:
            await self._send_failure(failure, dialect)
            return True
        if mode is Mode.WHOLE or not received.body.get("stream"):
            await self._send_whole(200, dialect.document(reply))
            return True
        return await self._stream_reply(reply, mode, dialect)

    async def _released(self) -> bool:
        """False when the client hung up before."""
        async with anyio.create_task_group() as tasks:

            async def release() -> None:
                await self._server.release.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(release)
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await self._stream.receive(1)
            tasks.cancel_scope.cancel()
        return self._server.release.is_set()

    def _model(self, name: str) -> str:
        return self._server.script if self._server.script is not None and not _is_script(name) else name

    async def _send_failure(self, failure: ModelCallFailed, dialect: Dialect) -> None:
        status = _STATUS[failure.outcome]
        headers = {} if failure.retry_after_s is None else {"Retry-After": f"{failure.retry_after_s:g}"}
        await self._send_whole(status, dialect.error(str(failure.outcome), failure.message), headers)

    async def _stream_reply(self, reply: ModelReply, mode: Mode, dialect: Dialect) -> bool:
        await self._stream.send(_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))
        for event in dialect.events(reply, mode):
            await self._send_event(event, mode)
        match mode:
            case Mode.BROKEN_STREAM:
                return False
            case Mode.ENDLESS:
                while True:
                    await self._send_event(dialect.more(), mode)
            case Mode.SLOW_DRIP:
                while True:
                    await self._send_chunk(b":")
                    await anyio.sleep(0.01)
            case Mode.STALLED:
                await anyio.sleep_forever()
            case _:
                await self._stream.send(b"0\r\n\r\n")
        return True

    async def _send_event(self, event: bytes, mode: Mode) -> None:
        if mode is not Mode.SINGLE_BYTES:
            await self._send_chunk(event)
            return
        for at in range(len(event)):
            await self._send_chunk(event[at : at + 1])

    async def _send_chunk(self, data: bytes) -> None:
        await self._stream.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def _misbehave(self, mode: Mode) -> bool:
        match mode:
            case Mode.NOT_HTTP:
                await self._stream.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            case Mode.SILENT:
                await anyio.sleep_forever()
            case Mode.COMPRESSED:
                bomb = gzip.compress(b"0" * (1 << 20))
                headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
                await self._stream.send(_head(200, headers | {"Content-Length": str(len(bomb))}) + bomb)
            case Mode.HUGE_LINE:
                await self._stream.send(
                    _head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
                )
                await self._send_chunk(b"data: ")
                while True:
                    await self._send_chunk(b"x" * 65_536)
            case _:
                pass
        return False

    async def _send_whole(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        await self._stream.send(_head(status, head) + body)


_ERRORS: dict[Mode, tuple[int, dict[str, str], tuple[str, str] | None]] = {
    Mode.RATE_LIMITED: (429, {"Retry-After": str(RETRY_AFTER_S)}, ("rate_limit_exceeded", "slow down")),
    Mode.QUOTA: (429, {}, ("insufficient_quota", "You exceeded your current quota.")),
    Mode.BAD_KEY: (401, {}, ("invalid_api_key", f"Incorrect API key provided: {QUOTED_KEY}.")),
    Mode.UNKNOWN_MODEL: (404, {}, ("model_not_found", "The model `nothing` does not exist")),
    Mode.TOO_LONG: (400, {}, ("context_length_exceeded", "This model's maximum context length is 8192 tokens.")),
    Mode.SERVER_ERROR: (500, {}, ("server_error", "The server had an error")),
    Mode.OVERLOADED: (503, {"Retry-After": "1"}, ("server_error", "The engine is overloaded")),
    Mode.SITE_OVERLOADED: (529, {}, ("overloaded_error", "Overloaded")),
    Mode.REDIRECT: (307, {"Location": "/v1/elsewhere"}, None),
}
"""Status, headers, and code and message of the error."""

_STATUS = {
    CallOutcome.RATE_LIMITED: 429,
    CallOutcome.UNAVAILABLE: 503,
    CallOutcome.REFUSED: 400,
    CallOutcome.TOO_LONG: 413,
    CallOutcome.TIMED_OUT: 504,
    CallOutcome.INVALID_REPLY: 500,
}
"""How a failure that the script asks for looks over HTTP."""


def _is_script(name: str) -> bool:
    try:
        parse_script(name)
    except ScriptUnknown:
        return False
    return True


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    lines += ["Set-Cookie: tracking=1; Path=/", "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _main(port: int, script: str, mode: Mode) -> None:
    async with serving(script=script, mode=mode, port=port) as server:
        print(server.base_url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat completions server on loopback, backed by the scripted model.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", default="root", help="used for every model name that is not a script itself")
    parser.add_argument("--mode", default="stream", choices=list(Mode))
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        anyio.run(_main, options.port, options.script, Mode(options.mode))
