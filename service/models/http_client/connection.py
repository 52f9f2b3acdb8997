"""One connection to a provider: one exchange at a time, kept between two."""

import asyncio
from collections.abc import Callable
from typing import cast

from service.models.http_client.errors import ConnectionBroke
from service.models.http_client.response import Response

SENT_TOGETHER_BYTES = 64 << 10
"""A body up to this size goes out with its head, in one piece."""


class HttpConnection(asyncio.Protocol):
    """Made by `HttpPool`. What comes in while nobody asked for anything ends it."""

    def __init__(self, on_lost: Callable[["HttpConnection"], None]) -> None:
        """`on_lost` is told when it has ended, however it did."""
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<HttpConnection {self._response or 'idle'}>"

    def send(self, head: bytes, body: bytes) -> Response:
        """Begin an exchange on a connection that is idle."""
        assert self._transport is not None, "it was made"
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._response = response = Response(self._transport)
        if len(body) <= SENT_TOGETHER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return response

    def end_exchange(self, *, keep_s: float) -> bool:
        """The response is wanted no more. Whether the connection can be used again, which it can for so long."""
        assert self._transport is not None, "it was made"
        response, self._response = self._response, None
        if (
            response is None
            or not response.keeps_alive
            or self._transport.is_closing()
            or self._transport.get_write_buffer_size()
        ):
            self.abort()
            return False
        response.read_nowait()  # lets a transport that was paused go on
        self._expiry = asyncio.get_running_loop().call_later(keep_s, self.abort)
        return True

    def abort(self) -> None:
        """Let go of it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._response is None:
            self.abort()
        else:
            self._response.feed(data)

    def eof_received(self) -> None:
        """Whoever closes one direction is done with both: the transport closes itself."""
        if self._response is not None:
            self._response.feed_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self._response is not None:
            if exc is None:
                self._response.feed_eof()
            else:
                self._response.fail(ConnectionBroke(type(exc).__name__), exc)
        self._on_lost(self)
