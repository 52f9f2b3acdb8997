"""What a connection may do: how long a head may take, how long nobody may read, how many there may be.

uvicorn bounds the size of a head and how long a connection idles between requests. A connection that never sends a
head, or half of one, or never reads its response, it would keep for ever.

Where there are as many connections as there may be, one that has no request under way makes room for a new one, the one
that has idled longest first; and where none idles, one whose client does not read what it asked for without a key. So
nobody keeps others out by holding connections without using them. A request that has its tenant's place is never pushed
out: how many of those there may be is bounded already.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from service.web.chunks import ChunkBoundedParser
from service.web.request_places import has_place

HEAD_WITHIN_S = 10.0
"""From the first byte of a request (or from the connection, for its first) to the end of its head."""
READ_WITHIN_S = 60.0
LEAST_READ_BYTES = 64 << 10
"""A client that leaves us waiting and reads less than this of its responses within `READ_WITHIN_S` is gone."""
MOST_READ_BYTES = 16 << 10
"""Of one connection in one turn of the loop: parsing it must not keep the others waiting."""
LEAST_IDLE_S = 1.0
"""A connection makes room for another one not before, so that many who come at once do not push each other out."""
LINGER_S = 5.0
"""For a client to see that it was refused, while it is still sending."""
MOST_REFUSED = 64
"""Connections beyond the cap that are let read why at once; what comes besides is closed without waiting for it."""
MAX_HEAD_BYTES = 64 << 10
KEEP_ALIVE_S = 75

_CLOSE = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"


def _response(status: bytes, text: bytes, more: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(text)
    return b"HTTP/1.1 " + status + b"\r\n" + _CLOSE + more + length + b"\r\n" + text


_TOO_MANY = _response(b"503 Service Unavailable", b"too many connections\n", b"retry-after: 1\r\n")
_TOO_SLOW = _response(b"408 Request Timeout", b"the head of the request did not come in time\n")


class _LingeringTransport:
    """A transport whose `close` lets a client that is still sending read what it was answered.

    Closing a socket with unread input resets the connection, and a client in the middle of an upload would see that
    instead of the refusal. So our half is closed first, and what still comes is thrown away for a while.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self.lingers = False
        self.has_unread_input: Callable[[], bool] = lambda: False
        self._written_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    @property
    def sent_bytes(self) -> int:
        """What the kernel has taken of all that was written."""
        return self._written_bytes - self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        self._written_bytes += len(data)
        self._transport.write(data)

    def close(self) -> None:
        if self.is_closing() or not self.has_unread_input():
            self._transport.close()
            return
        self.lingers = True
        self._transport.resume_reading()
        self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.close)


class BoundedProtocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol with deadlines. What a listener's connections share is set by its subclass."""

    most_connections: int
    idle: "dict[BoundedProtocol, float]"
    """Those without a request under way, with the time (of the loop) since when; the longest first."""
    unread: "dict[BoundedProtocol, float]"
    """Those with a response under way that has waited for its client to read, since when; the longest first."""
    refused: "set[BoundedProtocol]"
    """Those beyond the cap that are still being told so. They take no room of others."""
    inbound: bytearray
    """Where the loop puts what it reads, for the time of one call."""
    _lingering: _LingeringTransport

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn: ChunkBoundedParser = ChunkBoundedParser(MAX_HEAD_BYTES)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = _LingeringTransport(transport, self.loop)
        self._lingering.has_unread_input = lambda: self.conn.their_state is h11.SEND_BODY
        super().connection_made(cast(asyncio.Transport, self._lingering))
        is_full = len(self.connections) - len(self.refused) > self.most_connections
        if is_full and not self._take_room():
            self._refuse()
        else:
            self.idle[self] = self.loop.time()
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_timer)
        self._stop(self._read_timer)
        self.refused.discard(self)
        self.idle.pop(self, None)
        self.unread.pop(self, None)
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.inbound

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(memoryview(self.inbound)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop(self._head_timer)
            self._head_timer = None
            self.idle.pop(self, None)
            return
        self.idle.setdefault(self, self.loop.time())
        if self._head_timer is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        cycle = cast(RequestResponseCycle | None, self.cycle)
        if cycle is None or cycle.response_complete:
            super().send_400_response(msg)
            return
        # Its application is at work and would answer, too: for it, the client has gone.
        cycle.disconnected = True
        cycle.message_event.set()
        self.flow.resume_writing()
        if cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(self.conn.complaint or msg)

    def on_response_complete(self) -> None:
        if not self.flow.write_paused:
            self.unread.pop(self, None)
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.idle[self] = self.loop.time()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Reading a little now and then is no new beginning.
        self.unread.setdefault(self, self.loop.time())
        if self._read_timer is None:
            self._expect_reading()

    def resume_writing(self) -> None:
        if self.cycle.response_complete:
            self.unread.pop(self, None)
        super().resume_writing()

    def _take_room(self) -> bool:
        """Whether another connection could make room for this one. What it has not read of its last response by now is
        not waited for: new ones come faster than it would go."""
        latest = self.loop.time() - LEAST_IDLE_S
        longest_idle = next(iter(self.idle), None)
        if longest_idle is not None and self.idle[longest_idle] <= latest:
            del self.idle[longest_idle]
            longest_idle.transport.abort()
            return True
        for connection, since in self.unread.items():
            if since > latest:
                return False
            if not has_place(connection.scope["state"]):
                del self.unread[connection]
                connection.reset()
                return True
        return False

    def _refuse(self) -> None:
        self.refused.add(self)
        # Its request may be here already, unread.
        lets_read = len(self.refused) <= MOST_REFUSED
        self._lingering.has_unread_input = lambda: lets_read
        self.transport.write(_TOO_MANY)
        self.transport.close()

    def reset(self) -> None:
        """Let go of it and of what it has not read; an ordinary close would leave that waiting in the kernel."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _expect_reading(self) -> None:
        enough = self._lingering.sent_bytes + LEAST_READ_BYTES
        self._read_timer = self.loop.call_later(READ_WITHIN_S, self._reading_is_due, enough)

    def _reading_is_due(self, enough: int) -> None:
        self._read_timer = None
        if not self.flow.write_paused:
            return
        if self._lingering.sent_bytes < enough:
            self.reset()
        else:
            self._expect_reading()

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
    shared = {
        "most_connections": most_connections,
        "refused": set(),
        "idle": {},
        "unread": {},
        "inbound": bytearray(MOST_READ_BYTES),
    }
    return type("BoundedProtocol", (BoundedProtocol,), shared)
