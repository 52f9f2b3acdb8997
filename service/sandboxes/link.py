"""Speaks HTTP to a sandbox over the streams that the sandbox dialled.

One lane is one keep-alive connection, used by one request at a time; when it is used up the next dialled stream
takes its place. httpcore does the HTTP. What it does not do is done here, because the server is hostile: a deadline
over the whole exchange (its timeouts are per read, and a slow drip outlives them), a bound on every body, no encoding
but identity, no redirect, no cookie. What must not even reach its parser is refused in `dialled_stream`.

Everything that is not an answer within these rules is a `ProtocolBroken`; the owner of the link kills the sandbox.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpcore

from service.sandboxes.dialled_stream import DialledStream, ProtocolBroken
from service.sandboxes.listener import Lane, Listener

_ORIGIN = httpcore.Origin(b"http", b"sandbox", 80)
_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, anyio.ClosedResourceError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, and what its answer may cost."""

    lane: Lane
    method: str
    target: str
    deadline_s: float
    body: bytes = b""
    headers: Mapping[str, str]


class Answer:
    """Status and headers of an answer whose body is still to be read, once."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response
        self.status = response.status
        self._headers = _single_headers(response.headers)

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    @property
    def announced_bytes(self) -> int:
        """The content length."""
        text = self._headers.get("content-length", "")
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise ProtocolBroken("unusable content-length")
        return int(text)

    async def chunks(self, limit_bytes: int) -> AsyncIterator[bytes]:
        """The body in pieces, never more than the limit: the parser holds a body to its announced length."""
        announced = self.announced_bytes
        if announced > limit_bytes:
            raise ProtocolBroken(f"a body of {announced} bytes was announced where {limit_bytes} are allowed")
        try:
            async for chunk in self._response.aiter_stream():
                yield chunk
        except _FAILURES as exc:
            raise ProtocolBroken(_reason(exc)) from exc

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks(limit_bytes)])


class Link:
    """All HTTP spoken to one sandbox."""

    def __init__(self, listener: Listener) -> None:
        self._lanes: dict[Lane, _LaneConnection] = {
            "cells": _LaneConnection("cells", listener),
            "control": _LaneConnection("control", listener),
        }

    async def wait_until_dialled(self, deadline_s: float) -> None:
        """Until the sandbox has dialled both lanes. Raises `TimeoutError`, or `ProtocolBroken` when closed."""
        with anyio.fail_after(deadline_s):
            for lane in self._lanes.values():
                await lane.dialled()

    @asynccontextmanager
    async def exchange(self, exchange: Exchange) -> AsyncIterator[Answer]:
        """Send a request; inside the block the answer's body can be read. The deadline covers the whole block, not
        the wait for requests before it on the lane.

        Leaving the block before the end of the body, also by cancellation, closes the stream.

        Raises:
            ProtocolBroken: anything but an answer in time and in form.
        """
        async with self._lanes[exchange.lane].request(exchange) as response:
            yield Answer(response)

    async def close(self) -> None:
        """Close the streams in use; a request in flight fails. Idempotent."""
        for lane in self._lanes.values():
            await lane.close()

    def __repr__(self) -> str:
        return f"<Link {', '.join(str(lane) for lane in self._lanes.values())}>"


class _LaneConnection:
    def __init__(self, lane: Lane, listener: Listener) -> None:
        self._lane = lane
        self._listener = listener
        self._connection: httpcore.AsyncHTTP11Connection | None = None
        self._stream: DialledStream | None = None
        self._closed = anyio.Event()
        self._is_unused = False
        """The connection has not carried a request yet; httpcore does not count it as idle then."""
        self._one_request = anyio.Lock()
        """HTTP/1.1 without pipelining: one request at a time on the lane's connection."""
        self._is_in_use = False
        """Whoever uses the connection closes it when it has been shut down meanwhile. The lock does not tell: it may
        belong to one who has not begun."""

    async def dialled(self) -> None:
        async with self._one_request:
            await self._usable_connection()

    @asynccontextmanager
    async def request(self, exchange: Exchange) -> AsyncIterator[httpcore.Response]:
        async with self._one_request:
            with anyio.move_on_after(exchange.deadline_s) as deadline:
                connection = await self._usable_connection()
                self._is_unused, self._is_in_use = False, True
                try:
                    try:
                        response = await connection.handle_async_request(_request(exchange))
                    except _FAILURES as exc:
                        raise ProtocolBroken(_reason(exc)) from exc
                    try:
                        yield response
                    finally:
                        with anyio.CancelScope(shield=True):
                            await response.aclose()
                finally:
                    self._is_in_use = False
                    if self._closed.is_set():
                        with anyio.CancelScope(shield=True):
                            await connection.aclose()
            if deadline.cancelled_caught:
                raise ProtocolBroken(f"no complete answer within {exchange.deadline_s:g} s")

    async def close(self) -> None:
        """A request in flight sees the end of the stream and closes it; without one it is closed here."""
        self._closed.set()
        if self._stream is None:
            return
        self._stream.shut_down()
        if not self._is_in_use:
            await self._stream.aclose()

    async def _usable_connection(self) -> httpcore.AsyncHTTP11Connection:
        connection = self._connection
        if self._closed.is_set():
            raise ProtocolBroken("the sandbox is being killed")
        if connection is not None:
            if self._is_unused or (connection.is_idle() and not connection.has_expired()):
                return connection
            await connection.aclose()
        try:
            self._stream = DialledStream(await self._listener.take(self._lane))
        except anyio.ClosedResourceError as exc:
            raise ProtocolBroken("the sandbox's listener is closed") from exc
        if self._closed.is_set():
            await self._stream.aclose()
            raise ProtocolBroken("the sandbox is being killed")
        self._connection = httpcore.AsyncHTTP11Connection(origin=_ORIGIN, stream=self._stream)
        self._is_unused = True
        return self._connection

    def __str__(self) -> str:
        return f"{self._lane}: {self._connection!r}"


def _request(exchange: Exchange) -> httpcore.Request:
    headers = [
        (b"host", b"sandbox"),
        (b"accept-encoding", b"identity"),
        (b"content-length", str(len(exchange.body)).encode()),
        *((name.encode(), value.encode()) for name, value in exchange.headers.items()),
    ]
    url = httpcore.URL(scheme=b"http", host=b"sandbox", port=80, target=exchange.target.encode())
    return httpcore.Request(exchange.method.encode(), url, headers=headers, content=exchange.body)


def _single_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Lower-cased; a repeated header, or an encoding other than identity, breaks the protocol."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in found:
            raise ProtocolBroken("a header came twice")
        found[name] = raw_value.decode("latin-1")
    if found.get("content-encoding", "identity").lower() != "identity":
        raise ProtocolBroken("an encoded body")
    return found


def _reason(exc: Exception) -> str:
    """What is safe to say: the kind of failure, never bytes that the sandbox chose."""
    match exc:
        case httpcore.RemoteProtocolError():
            return "not an HTTP answer, or the stream ended"
        case httpcore.NetworkError() | anyio.ClosedResourceError():
            return "the stream broke"
        case _:
            return type(exc).__name__
