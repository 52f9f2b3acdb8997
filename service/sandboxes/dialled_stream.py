"""A stream that the sandbox dialled, as httpcore wants one, and what has to be refused before an HTTP parser sees it.

A parser takes its time for every piece: ten thousand one-byte chunks or interim answers in one read are a second in
which the service does nothing else. Our own server sends one head with a content length and then the body, so that is
all there may be: a short head, a final status, a length, and a body in pieces of a sensible size.
"""

import re
import ssl
from typing import Any

import anyio
import httpcore

from service.sandboxes.stream import UnixStream

MAX_HEAD_BYTES = 8192
MAX_READS = 64
"""Of an answer, besides those that its body's size explains."""
SMALLEST_MEAN_READ_BYTES = 256

_HEAD_END = b"\r\n\r\n"
_FINAL_STATUS = re.compile(rb"HTTP/1\.1 [2-5][0-9][0-9] ")
_FRAMING = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)


class ProtocolBroken(Exception):
    """The sandbox went away, was late or did not keep to the protocol. Never leaves this room."""


class DialledStream(httpcore.AsyncNetworkStream):
    """Owns the stream. Its timeouts are ignored: the exchange has one deadline."""

    def __init__(self, stream: UnixStream) -> None:
        self._stream = stream
        self._awaits_head = False
        self._reads_left = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Some bytes, with the head of an answer in one piece.

        Raises:
            ProtocolBroken: the answer is not of the one form that there is.
        """
        if not self._awaits_head:
            return await self._receive(max_bytes)
        received = b""
        while (end := received.find(_HEAD_END, 0, MAX_HEAD_BYTES)) < 0:
            if len(received) >= MAX_HEAD_BYTES:
                raise ProtocolBroken(f"an answer's head of more than {MAX_HEAD_BYTES} bytes")
            if not (piece := await self._receive(max_bytes)):
                return received
            received += piece
        self._reads_left += _body_bytes(received[: end + len(_HEAD_END)]) // SMALLEST_MEAN_READ_BYTES
        self._awaits_head = False
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        self._awaits_head = True
        self._reads_left = MAX_READS
        try:
            await self._stream.send(buffer)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise httpcore.WriteError("the stream broke") from exc

    async def aclose(self) -> None:
        self._stream.close()

    def shut_down(self) -> None:
        """Let a pending read see the end."""
        self._stream.shut_down()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("a sandbox's stream never speaks TLS")

    def get_extra_info(self, info: str) -> Any:
        return self._stream.is_used_up() if info == "is_readable" else None

    async def _receive(self, max_bytes: int) -> bytes:
        if self._reads_left <= 0:
            raise ProtocolBroken("an answer in too many pieces")
        self._reads_left -= 1
        try:
            return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise httpcore.ReadError("the stream broke") from exc


def _body_bytes(head: bytes) -> int:
    """How long the body is that the head announces. What a parser would find wrong with the rest, it may find."""
    if not _FINAL_STATUS.match(head):
        raise ProtocolBroken("an answer that does not begin with a final status of HTTP/1.1")
    if _FRAMING.search(head):
        raise ProtocolBroken("an answer with a transfer encoding")
    length = _LENGTH.search(head)
    if length is None:
        raise ProtocolBroken("an answer without its length")
    return int(length[1])
