"""Frames between the supervisor and a kernel, over an inherited socket pair.

    u32 header length · u32 body length · header (a JSON object) · body (raw bytes)

Both lengths are checked against caps before a byte of either is kept: the other side is hostile on the
supervisor's end, and on the kernel's end a bug should be loud.
"""

import json
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any

MAX_HEADER_BYTES = 1 << 20

_LENGTHS = struct.Struct(">II")

# Held here because code in a cell may replace `json.dumps` and friends in the module that it shares with the kernel.
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class FrameViolation(Exception):
    """The other side sent something that is not a frame, or one beyond the caps."""


@dataclass(frozen=True, slots=True)
class Frame:
    header: dict[str, Any]
    body: bytes


def encode_frame(header: dict[str, Any], body: bytes | memoryview = b"") -> bytes:
    """The bytes of one frame.

    Raises:
        FrameViolation: the header is above its cap.
    """
    encoded = _encode(header).encode("ascii")
    if len(encoded) > MAX_HEADER_BYTES:
        raise FrameViolation(f"a frame header may have {MAX_HEADER_BYTES} bytes, this one has {len(encoded)}")
    return b"".join((_LENGTHS.pack(len(encoded), len(body)), encoded, body))


class FrameDecoder:
    """Bytes in, whole frames out. Once it has raised it is of no further use."""

    def __init__(self, *, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            FrameViolation: a length is above its cap, or a header is not a JSON object.
        """
        self._buffer += data
        while (frame := self._cut_frame()) is not None:
            self._frames.append(frame)

    def next_frame(self) -> Frame | None:
        """The oldest complete frame that was not taken yet."""
        return self._frames.popleft() if self._frames else None

    def _cut_frame(self) -> Frame | None:
        if len(self._buffer) < _LENGTHS.size:
            return None
        header_length, body_length = _LENGTHS.unpack_from(self._buffer)
        if header_length > MAX_HEADER_BYTES or body_length > self._max_body_bytes:
            raise FrameViolation(f"a frame of {header_length} + {body_length} bytes is above the caps")
        end = _LENGTHS.size + header_length + body_length
        if len(self._buffer) < end:
            return None
        header = _decode_header(bytes(self._buffer[_LENGTHS.size : _LENGTHS.size + header_length]))
        body = bytes(memoryview(self._buffer)[_LENGTHS.size + header_length : end])
        del self._buffer[:end]
        return Frame(header, body)


def _decode_header(encoded: bytes) -> dict[str, Any]:
    try:
        header = _decode(encoded.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameViolation(f"a frame header is not JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise FrameViolation(f"a frame header must be a JSON object, found {type(header).__name__}")
    return header
