"""One response as it comes in: fed with bytes in any pieces, read by whoever waits for it. No sockets.

What is kept in memory is bounded: a head has at most `MAX_HEAD_BYTES`; framing (chunk sizes, their extensions,
trailers) at most as much again and a share of the body; and when more than `HELD_BYTES` of the body wait to be read,
`flow` is told to let no more come in.
"""

import asyncio
from collections import deque
from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from service.models.http_client.errors import BodyBroke, ConnectionBroke, HttpFailed, NotHttp

MAX_HEAD_BYTES = 64 << 10
MOST_FRAMING_PER_BODY_BYTE = 16
"""A chunk of one byte has six bytes around it."""
HELD_BYTES = 256 << 10


class Flow(Protocol):
    """Whatever the bytes come from."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Response:
    """The response to one request. `feed`, `feed_eof` and `fail` are the connection's, the rest is the reader's."""

    def __init__(self, flow: Flow) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """By lower-case name; of one that is repeated the last."""
        self.is_complete = False
        self._is_headed = False
        self._may_keep_alive = False
        self._failure: HttpFailed | None = None
        self._flow = flow
        self._is_paused = False
        self._parser = HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._body_bytes = 0
        self._other_bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "complete" if self.is_complete else "headed" if self._is_headed else "awaited"
        return f"<Response {self.status or ''} {state} body={self._body_bytes}>"

    @property
    def keeps_alive(self) -> bool:
        """Whether its connection can carry another exchange: it is complete, and nothing came behind it."""
        return self.is_complete and self._may_keep_alive and self._failure is None

    @property
    def media_type(self) -> str:
        """Of `content-type`, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_read(self) -> bool:
        """Whether the whole body has come and was read."""
        return self.is_complete and not self._pieces

    async def until_headed(self) -> None:
        """Wait for the head.

        Raises:
            ConnectionBroke, NotHttp
        """
        while not self._is_headed:
            await self._news()

    def read_nowait(self) -> bytes:
        """All of the body that has come and was not read; empty when that is nothing."""
        if not self._pieces:
            return b""
        read = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._flow.resume_reading()
        return read

    async def read(self) -> bytes:
        """The next piece of the body, waiting for it; empty at its end.

        Raises:
            BodyBroke
        """
        while not self._pieces and not self.is_complete:
            await self._news()
        return self.read_nowait()

    def feed(self, data: bytes) -> None:
        """Take in what came."""
        if self.is_complete or self._failure is not None:
            self._may_keep_alive = False
            return
        body_before = self._body_bytes
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.is_complete:
                self.fail(BodyBroke("bad framing") if self._is_headed else NotHttp("not a response"), error)
            self._may_keep_alive = False
        self._other_bytes += len(data) - (self._body_bytes - body_before)
        if self._other_bytes > MAX_HEAD_BYTES + MOST_FRAMING_PER_BODY_BYTE * self._body_bytes:
            self.fail(BodyBroke("too much framing") if self._is_headed else NotHttp("a head without end"))
        elif self._held_bytes > HELD_BYTES and not self._is_paused and not self.is_complete:
            self._is_paused = True
            self._flow.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        """Nothing more comes. That is the end of a body whose length nobody said, and of any other a break."""
        if self._is_headed and not self.is_complete and not self._has_framing():
            self.is_complete = True
            self._wake()
        else:
            self.fail(BodyBroke("ended early") if self._is_headed else ConnectionBroke("ended before a response"))

    def fail(self, failure: HttpFailed, cause: BaseException | None = None) -> None:
        """What has not come will not. Without effect on a response that is complete."""
        if not self.is_complete and self._failure is None:
            failure.__cause__ = cause
            self._failure = failure
            self._wake()

    def on_message_begin(self) -> None:
        """The parser's: also called for what comes behind the response's end."""
        if self.is_complete:
            self._may_keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's: of the head, and of trailers, which nobody asked for."""
        if not self._is_headed:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The parser's. A head with a status below 200 is only an announcement of the one that counts."""
        if self._is_headed:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
        else:
            self._is_headed = True

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        if not self.is_complete:
            self._pieces.append(body)
            self._held_bytes += len(body)
            self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """The parser's."""
        if self._is_headed and not self.is_complete:
            self.is_complete = True
            self._may_keep_alive = bool(self._parser.should_keep_alive())

    def _has_framing(self) -> bool:
        return "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()

    async def _news(self) -> None:
        """Wait until something was fed. Raises what it failed with."""
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
