"""As much of HTTP/1.1 as two programs of ours need: strict, identity encoding, every length capped before reading.

Serves the dialled streams (`supervisor`) and the calls to the gateway (`host_calls`). Not `http.server` and
`http.client`, because they import the email package, which costs a sandbox 20 ms at its start, and because they
accept far more than is ever sent here.
"""

import json
import socket
from dataclasses import dataclass
from typing import Any

MAX_HEAD_BYTES = 16 << 10
MAX_HEADERS = 64
_RECEIVE_BYTES = 256 << 10

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict"}


class StreamEnded(Exception):
    """The other side closed the connection, at a message boundary or within one."""


class StreamViolation(Exception):
    """What arrived is not the HTTP that is spoken here; the connection is of no further use."""


class BodyTooLarge(Exception):
    """The announced body is above the cap. Nothing of it was read."""


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and its headers (names in lower case)."""

    start: tuple[str, str, str]
    headers: dict[str, str]

    def content_length(self) -> int:
        """The length of the body that follows.

        Raises:
            StreamViolation: it is not a plain number, or the body is framed in another way.
        """
        if "transfer-encoding" in self.headers:
            raise StreamViolation("expected a body with Content-Length, found Transfer-Encoding")
        text = self.headers.get("content-length", "0")
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise StreamViolation("Content-Length must be a plain number")
        return int(text)


class BufferedStream:
    """One connection, read in messages."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = bytearray()

    def read_line(self, limit: int) -> bytes:
        """Up to and without the next newline.

        Raises:
            StreamEnded: the connection closed first.
            StreamViolation: no newline within `limit` bytes.
        """
        return self._read_until(b"\n", limit)

    def read_head(self) -> Head:
        """A start line and its headers, or `StreamEnded` / `StreamViolation`."""
        lines = self._read_until(b"\r\n\r\n", MAX_HEAD_BYTES).decode("latin-1").split("\r\n")
        start = lines[0].split(" ", 2)
        if len(start) != 3 or len(lines) - 1 > MAX_HEADERS:
            raise StreamViolation("expected an HTTP start line and a moderate number of headers")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip() or name.lower() in headers:
                raise StreamViolation("a header is malformed or repeated")
            headers[name.lower()] = value.strip(" \t")
        return Head((start[0], start[1], start[2]), headers)

    def read_exactly(self, size: int) -> bytes:
        """`size` bytes, or `StreamEnded`."""
        buffer = self._buffer
        while len(buffer) < size:
            self._receive()
        data = bytes(memoryview(buffer)[:size])
        del buffer[:size]
        return data

    def read_body(self, head: Head, limit: int) -> bytes:
        """The body that `head` announces.

        Raises:
            BodyTooLarge: it is above `limit`.
            StreamEnded, StreamViolation: as above.
        """
        size = head.content_length()
        if size > limit:
            raise BodyTooLarge(f"a body may have {limit} bytes here, this one has {size}")
        return self.read_exactly(size)

    def _read_until(self, mark: bytes, limit: int) -> bytes:
        searched = 0
        while (end := self._buffer.find(mark, searched)) < 0:
            if len(self._buffer) > limit:
                raise StreamViolation(f"a line or head is longer than {limit} bytes")
            searched = max(0, len(self._buffer) - len(mark) + 1)
            self._receive()
        if end > limit:
            raise StreamViolation(f"a line or head is longer than {limit} bytes")
        data = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return data

    def _receive(self) -> None:
        data = self.connection.recv(_RECEIVE_BYTES)
        if not data:
            raise StreamEnded("the connection was closed")
        self._buffer += data


def encode_response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole response: one write puts it on the wire."""
    return encode_response_head(status, len(body), headers or {"content-type": "application/json"}) + body


def encode_response_head(status: int, size: int, headers: dict[str, str]) -> bytes:
    """The head of a response whose body of `size` bytes follows."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Answered')}", f"content-length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def encode_json(value: Any) -> bytes:
    """JSON as it goes on the wire: ASCII, so that no surrogate can spoil it."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
