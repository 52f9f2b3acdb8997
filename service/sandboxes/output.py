"""What a cell prints, while it prints it: pieces by offset, so that whoever is slow misses some and delays nobody."""

import base64
import binascii
from dataclasses import dataclass

from sandbox_image.protocol import OUTPUT_PIECE_BYTES, OutputPiece, OutputReply
from service.sandboxes.dialled_stream import ProtocolBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOffsets:
    """How far somebody has read, in bytes of each stream."""

    stdout: int = 0
    stderr: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPiece:
    """Some of a stream, in order. `missed` bytes before it were not kept for so slow a reader."""

    data: bytes
    missed: int
    next_byte: int
    """Where to go on."""
    is_all: bool
    """Whether there is nothing behind it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutput:
    """What both streams had to give. With `is_over` the cell has ended and nothing will be added."""

    stdout: StreamPiece
    stderr: StreamPiece
    is_over: bool

    @property
    def next_offsets(self) -> OutputOffsets:
        return OutputOffsets(stdout=self.stdout.next_byte, stderr=self.stderr.next_byte)

    @property
    def is_all(self) -> bool:
        """Whether the cell has ended and everything was given."""
        return self.is_over and self.stdout.is_all and self.stderr.is_all


def output_of(reply: OutputReply, after: OutputOffsets) -> CellOutput:
    """The reply, if it follows on what was asked."""
    return CellOutput(
        stdout=_piece(reply.stdout, after.stdout), stderr=_piece(reply.stderr, after.stderr), is_over=reply.is_over
    )


def _piece(reply: OutputPiece, after: int) -> StreamPiece:
    if len(reply.data) > 2 * OUTPUT_PIECE_BYTES:
        raise ProtocolBroken("a piece of output over its bound")
    try:
        data = base64.b64decode(reply.data, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolBroken("output that is not base64") from None
    next_byte = reply.from_byte + len(data)
    if len(data) > OUTPUT_PIECE_BYTES or not 0 <= next_byte <= reply.size_bytes < 1 << 60:
        raise ProtocolBroken("a piece of output that does not fit where it stands")
    if reply.from_byte < after:  # the stream is shorter than we know it to be
        raise ProtocolBroken("output that begins before it was asked for")
    return StreamPiece(
        data=data, missed=reply.from_byte - after, next_byte=next_byte, is_all=next_byte == reply.size_bytes
    )
