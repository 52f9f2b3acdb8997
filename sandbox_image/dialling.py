"""Dials the host and proves on every stream but the first that it is still the same sandbox.

The secret comes on the first stream, before any cell has run, and stays in this process: code in a kernel that
could reach the host's socket could still not pose as the supervisor.
"""

import hmac
import json
import socket
import time
from threading import Lock
from typing import Any, Literal

from .http_stream import BufferedStream, StreamEnded, StreamViolation, encode_json
from .protocol import DIAL_PROOF_LABEL, MAX_PREFACE_BYTES, PROTOCOL_VERSION

Lane = Literal["cells", "control"]

_PREFACE_TIMEOUT_S = 10.0
_FIRST_BACKOFF_S = 0.005
_MAX_BACKOFF_S = 0.5


class HostGone(Exception):
    """Nobody has accepted a stream for as long as the sandbox waits."""


class PrefaceRefused(Exception):
    """The host's preface cannot be answered: this sandbox is of no use to it."""


class Dialler:
    """Opens streams for the lanes. `patience_s`: how long no stream at all may exist."""

    def __init__(self, path: str, patience_s: float) -> None:
        self._path = path
        self._patience_s = patience_s
        self._lock = Lock()  # one preface at a time, so that exactly one stream is the first
        self._secret: bytes | None = None
        self._open_streams = 0
        self._alone_since = time.monotonic()

    def dial(self, lane: Lane) -> BufferedStream:
        """The lane's next stream; tries until the host accepts.

        Raises:
            HostGone: patience has run out.
            PrefaceRefused: the host knows this sandbox no more.
        """
        pause_s = _FIRST_BACKOFF_S
        while True:
            try:
                with self._lock:
                    stream = self._dial_once(lane)
                    self._open_streams += 1
                return stream
            except (OSError, StreamEnded, StreamViolation):
                self.check_patience()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_BACKOFF_S)

    def closed(self, stream: BufferedStream) -> None:
        """Every stream that `dial` returned is given back here, once."""
        stream.connection.close()
        with self._lock:
            self._open_streams -= 1
            self._alone_since = time.monotonic()

    def check_patience(self) -> None:
        """Raises `HostGone` when no stream has existed for too long."""
        if self._open_streams == 0 and time.monotonic() - self._alone_since > self._patience_s:
            raise HostGone(f"the host has accepted no stream for {self._patience_s:g} s")

    def _dial_once(self, lane: Lane) -> BufferedStream:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_PREFACE_TIMEOUT_S)
            connection.connect(self._path)
            connection.sendall(encode_json({"protocol": PROTOCOL_VERSION, "lane": lane}) + b"\n")
            stream = BufferedStream(connection)
            answer = _parse_preface(stream.read_line(MAX_PREFACE_BYTES))
            if self._secret is None:
                self._secret = _hex_field(answer, "secret")
            else:
                nonce = _hex_field(answer, "nonce")
                proof = hmac.digest(self._secret, DIAL_PROOF_LABEL + nonce, "sha256").hex()
                connection.sendall(encode_json({"proof": proof}) + b"\n")
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return stream


def _parse_preface(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise PrefaceRefused("expected a JSON object as the host's preface")
    return answer


def _hex_field(answer: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(answer[name])
    except (KeyError, TypeError, ValueError):
        raise PrefaceRefused(f"expected {name!r} in the host's preface, in hexadecimal") from None
