"""What a connection may do: how long a head may take, how long nobody may read, how many there may be.

uvicorn bounds the size of a head and how long a connection idles between requests. A connection that never sends a
head, or half of one, or never reads its response, it would keep for ever.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WITHIN_S = 10.0
"""From the first byte of a request (or from the connection, for its first) to the end of its head."""
READ_WITHIN_S = 60.0
"""A client that reads nothing of its response for this long is gone."""
MAX_HEAD_BYTES = 64 << 10
KEEP_ALIVE_S = 75

_CLOSE = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"


def _response(status: bytes, text: bytes, more: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(text)
    return b"HTTP/1.1 " + status + b"\r\n" + _CLOSE + more + length + b"\r\n" + text


_TOO_MANY = _response(b"503 Service Unavailable", b"too many connections\n", b"retry-after: 1\r\n")
_TOO_SLOW = _response(b"408 Request Timeout", b"the head of the request did not come in time\n")


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines. `most_connections` is set by the listener's subclass."""

    most_connections: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_timer)
        self._stop(self._read_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._read_timer)
        self._read_timer = None
        super().resume_writing()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_WITHIN_S, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()

    def _stop(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def protocol_for(most_connections: int) -> type[BoundedProtocol]:
    """The protocol class for a listener with this many connections."""
    return type("BoundedProtocol", (BoundedProtocol,), {"most_connections": most_connections})
