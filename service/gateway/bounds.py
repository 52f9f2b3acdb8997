"""What a connection to the gateway may take of our memory, descriptors and time besides what the application counts."""

import asyncio
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
_FRAMING_PER_BODY_BYTE = 16
"""A chunk of one byte has six bytes around it."""
_PEER = struct.Struct("iII")
"""pid, uid, gid: `struct ucred` of unix(7)."""
_UNTOLD_UIDS = (0, 65534)
"""Of processes that Linux does not tell apart for us, where it does not tell their pid either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """What each connection, and each sandbox, may have."""

    connections: int = 128
    """Of one sandbox at once. A supervisor makes `MAX_PARALLEL_CALLS` at a time, each on a connection of its own."""
    request_s: float = 60.0
    """From a connection, or from a request's first byte, until all of it is there."""
    unread_s: float = 60.0
    """How long what was written may stand before all of it has been read."""


Peers = Counter[str]
"""How many connections each sandbox has at one gateway."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over the parser in C, which takes in heads, chunks' extensions and trailers for ever, and
    waits for ever: for a request, and for whoever does not read an answer."""

    def __init__(self, *arguments: Any, bounds: ConnectionBounds, peers: Peers, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds = bounds
        self._peers = peers
        self._unaccounted_bytes = 0
        """Of the request that is coming in: what is no body, and not what a body needs around it."""
        self._peer: str | None = None
        """Which sandbox connected, as far as the operating system can tell."""
        self._coming: asyncio.TimerHandle | None = None
        """Ends the wait for a request."""
        self._unread: asyncio.TimerHandle | None = None
        """Ends the wait for a reader."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # told of whatever was not read at once
        self._peer = _who_connected(transport.get_extra_info("socket"))
        if self._peer is not None:
            self._peers[self._peer] += 1
            if self._peers[self._peer] > self._bounds.connections:
                transport.abort()
                return
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._peer is not None:
            self._peers[self._peer] -= 1
            if not self._peers[self._peer]:
                del self._peers[self._peer]
        self._stop(self._coming)
        self._stop(self._unread)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unaccounted_bytes += len(data)
        super().data_received(data)
        if self._unaccounted_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        self._await_request()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._unaccounted_bytes = max(0, self._unaccounted_bytes - (1 + _FRAMING_PER_BODY_BYTE) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop(self._coming)
        self._unaccounted_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop(self._unread)
        self._unread = self.loop.call_later(self._bounds.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._unread)
        super().resume_writing()

    def _await_request(self) -> None:
        self._stop(self._coming)
        self._coming = self.loop.call_later(self._bounds.request_s, self.transport.abort)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def _who_connected(connection: socket.socket) -> str | None:
    """One sandbox, whatever processes it has: by the uid of its own, else by the pid; None where neither is told."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if uid not in (*_UNTOLD_UIDS, os.geteuid()):
        return f"uid {uid}"
    return f"pid {pid}" if pid else None
