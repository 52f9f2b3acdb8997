"""A server on loopback that speaks OpenAI's chat completions, well or badly, on raw sockets.

Its replies come from the scripted model, so whole runs can be driven through a real HTTP provider:

    python -m tests.models.protocol_server --port 0 --script root        # prints its base URL

In tests: `async with serving() as server`, then set `server.mode`, or `server.plan` for the next calls one by one.
"""

import argparse
import gzip
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from service.loop.values import CallOutcome, Message
from service.models.port import ModelAdapter, ModelCallFailed, ModelReply, ModelRequest
from service.models.scripted.adapter import ScriptedAdapter
from service.models.scripted.script import ScriptUnknown, parse_script

HEAD_LIMIT_BYTES = 64 << 10
BODY_LIMIT_BYTES = 64 << 20
PIECE_CHARS = 24
RETRY_AFTER_S = 2
QUOTED_KEY = "sk-proj-abcdefghijklmnop1234567890"
"""What a careless provider quotes in its messages."""


class Mode(StrEnum):
    """How the server treats a call."""

    STREAM = "stream"
    SINGLE_BYTES = "single_bytes"
    """A good stream, every byte a chunk of its own."""
    NO_DONE = "no_done"
    """A good stream that ends without `[DONE]`."""
    WHOLE = "whole"
    """One JSON document, although a stream was asked for."""
    HELD = "held"
    """Waits for `server.release` before it replies."""
    NO_USAGE = "no_usage"
    LYING_USAGE = "lying_usage"
    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    BAD_KEY = "bad_key"
    UNKNOWN_MODEL = "unknown_model"
    TOO_LONG = "too_long"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    REDIRECT = "redirect"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    ERROR_IN_STREAM = "error_in_stream"
    BROKEN_STREAM = "broken_stream"
    """The connection is cut in the middle of the text."""
    UNFINISHED_STREAM = "unfinished_stream"
    """The stream ends properly, but the model never said that it was done."""
    HUNG_UP = "hung_up"
    """The request is read and the connection closed without a word."""
    NOT_HTTP = "not_http"
    WRONG_JSON = "wrong_json"
    WRONG_SHAPE = "wrong_shape"
    DEEP_JSON = "deep_json"
    COMPRESSED = "compressed"
    HUGE_LINE = "huge_line"
    ENDLESS = "endless"
    """Good events for ever."""
    SLOW_DRIP = "slow_drip"
    """A byte now and then, for ever."""
    STALLED = "stalled"
    """Begins a stream and says no more."""
    SILENT = "silent"
    """Says nothing at all."""


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
    in_flight: int = 0
    most_in_flight: int = 0
    release: anyio.Event = field(default_factory=anyio.Event)
    arrived: anyio.Condition = field(default_factory=anyio.Condition)

    async def until_in_flight(self, calls: int) -> None:
        """Returns once that many calls are being answered."""
        async with self.arrived:
            while self.in_flight < calls:
                await self.arrived.wait()

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
        async with stream:
            await _Connection(server, adapter, stream).serve()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve_connection)
        yield server
        tasks.cancel_scope.cancel()


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
        if mode in _ERRORS:
            status, headers, error = _ERRORS[mode]
            await self._send_whole(status, {"error": error} if error else {}, headers)
            return True
        if mode is Mode.HELD:
            await self._server.release.wait()
        if mode in (Mode.HUNG_UP, Mode.NOT_HTTP, Mode.SILENT, Mode.COMPRESSED, Mode.HUGE_LINE):
            return await self._misbehave(mode)
        try:
            reply = await self._adapter.complete(self._request(received.body))
        except ModelCallFailed as failure:
            await self._send_failure(failure)
            return True
        if mode is Mode.WHOLE or not received.body.get("stream"):
            await self._send_whole(200, _document(reply))
            return True
        return await self._stream_reply(reply, mode)

    def _request(self, body: dict[str, Any]) -> ModelRequest:
        name = body["model"]
        if self._server.script is not None and not _is_script(name):
            name = self._server.script
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        return ModelRequest(
            model=name,
            messages=tuple(Message(role=one["role"], content=one["content"]) for one in body["messages"]),
            max_output_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or 4096,
            schema=schema,
        )

    async def _send_failure(self, failure: ModelCallFailed) -> None:
        status = _STATUS[failure.outcome]
        headers = {} if failure.retry_after_s is None else {"Retry-After": f"{failure.retry_after_s:g}"}
        await self._send_whole(status, {"error": {"message": failure.message, "code": str(failure.outcome)}}, headers)

    async def _stream_reply(self, reply: ModelReply, mode: Mode) -> bool:
        await self._stream.send(_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))
        for event in _events(reply, mode):
            await self._send_event(event, mode)
        match mode:
            case Mode.BROKEN_STREAM:
                return False
            case Mode.ENDLESS:
                while True:
                    await self._send_event(_event_bytes(_chunk({"content": "x" * 4000})), mode)
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


_ERRORS: dict[Mode, tuple[int, dict[str, str], dict[str, str]]] = {
    Mode.RATE_LIMITED: (
        429,
        {"Retry-After": str(RETRY_AFTER_S)},
        {"message": "slow down", "code": "rate_limit_exceeded"},
    ),
    Mode.QUOTA: (429, {}, {"message": "You exceeded your current quota.", "code": "insufficient_quota"}),
    Mode.BAD_KEY: (401, {}, {"message": f"Incorrect API key provided: {QUOTED_KEY}.", "code": "invalid_api_key"}),
    Mode.UNKNOWN_MODEL: (404, {}, {"message": "The model `nothing` does not exist", "code": "model_not_found"}),
    Mode.TOO_LONG: (
        400,
        {},
        {"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"},
    ),
    Mode.SERVER_ERROR: (500, {}, {"message": "The server had an error", "type": "server_error"}),
    Mode.OVERLOADED: (503, {"Retry-After": "1"}, {"message": "The engine is overloaded", "type": "server_error"}),
    Mode.REDIRECT: (307, {"Location": "/v1/elsewhere"}, {}),
}

_STATUS = {
    CallOutcome.RATE_LIMITED: 429,
    CallOutcome.UNAVAILABLE: 503,
    CallOutcome.REFUSED: 400,
    CallOutcome.TOO_LONG: 413,
    CallOutcome.TIMED_OUT: 504,
    CallOutcome.INVALID_REPLY: 500,
}
"""How a failure that the script asks for looks over HTTP."""


def _events(reply: ModelReply, mode: Mode) -> list[bytes]:
    """What a stream consists of in this mode."""
    pieces = [reply.text[at : at + PIECE_CHARS] for at in range(0, len(reply.text), PIECE_CHARS)] or [""]
    chunks: list[object] = [_chunk({"role": "assistant", "content": ""})]
    chunks += [_chunk({"content": piece}) for piece in pieces]
    finish = _chunk({}, finish_reason=reply.finish_reason)
    usage = {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": _usage(reply)}
    match mode:
        case Mode.WRONG_JSON:
            return [_event_bytes(chunks[0]), b"data: {not json\n\n"]
        case Mode.WRONG_SHAPE:
            return [b'data: {"choices": 7}\n\n']
        case Mode.DEEP_JSON:
            return [b"data: " + b"[" * 100_000 + b"\n\n"]
        case Mode.ERROR_IN_STREAM:
            return [_event_bytes(chunks[0]), _event_bytes({"error": {"message": "overloaded", "code": 503}})]
        case Mode.BROKEN_STREAM | Mode.UNFINISHED_STREAM | Mode.ENDLESS | Mode.SLOW_DRIP | Mode.STALLED:
            return [_event_bytes(chunk) for chunk in chunks[:2]]
        case Mode.CONTENT_FILTER:
            return [*map(_event_bytes, [*chunks, _chunk({}, finish_reason="content_filter")]), b"data: [DONE]\n\n"]
        case Mode.REFUSAL:
            refusal = [_chunk({"refusal": "I cannot help with that."}), finish]
            return [*map(_event_bytes, refusal), b"data: [DONE]\n\n"]
        case Mode.NO_USAGE:
            return [*map(_event_bytes, [*chunks, finish]), b"data: [DONE]\n\n"]
        case Mode.LYING_USAGE:
            lie = {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 1e30, "total_tokens": "many"}}
            return [*map(_event_bytes, [*chunks, finish, lie]), b"data: [DONE]\n\n"]
        case Mode.NO_DONE:
            return [_event_bytes(chunk) for chunk in [*chunks, finish, usage]]
        case _:
            return [*map(_event_bytes, [*chunks, finish, usage]), b"data: [DONE]\n\n"]


def _is_script(name: str) -> bool:
    try:
        parse_script(name)
    except ScriptUnknown:
        return False
    return True


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None}


def _event_bytes(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _document(reply: ModelReply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}


def _usage(reply: ModelReply) -> dict[str, int]:
    assert reply.usage is not None
    prompt, completion = reply.usage.input_tokens, reply.usage.output_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


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
