"""Output in pieces, as a sandbox that lies may tell of it."""

import base64
from dataclasses import replace

import pytest

from sandbox_image.capture import HeadTailRing
from sandbox_image.protocol import OUTPUT_PIECE_BYTES, OutputPiece, OutputReply
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.output import OutputOffsets, output_of

HONEST = OutputPiece(from_byte=10, data=base64.b64encode(b"abc").decode(), size_bytes=20)
EMPTY = OutputPiece(from_byte=0, data="", size_bytes=0)


def reply(piece: OutputPiece) -> OutputReply:
    return OutputReply(stdout=piece, stderr=EMPTY, is_over=False)


def test_a_piece_says_what_was_missed_and_where_to_go_on() -> None:
    """Bytes between what was asked for and what there is are counted as missed."""
    found = output_of(reply(HONEST), OutputOffsets(stdout=4))
    assert (found.stdout.data, found.stdout.missed, found.next_offsets.stdout) == (b"abc", 6, 13)
    assert not found.stdout.is_all


@pytest.mark.parametrize(
    "lie",
    [
        replace(HONEST, data="not base64!"),
        replace(HONEST, data="é"),
        replace(HONEST, data=base64.b64encode(bytes(OUTPUT_PIECE_BYTES + 1)).decode()),
        replace(HONEST, data="A" * (3 * OUTPUT_PIECE_BYTES)),
        replace(HONEST, from_byte=-20),
        replace(HONEST, from_byte=3),
        replace(HONEST, size_bytes=12),
        replace(HONEST, size_bytes=1 << 61),
    ],
)
def test_a_piece_that_cannot_be_breaks_the_protocol(lie: OutputPiece) -> None:
    """No base64, too much of it, bytes from before they were asked for, or behind the end."""
    with pytest.raises(ProtocolBroken):
        output_of(reply(lie), OutputOffsets(stdout=4))


def test_a_ring_gives_every_kept_byte_once() -> None:
    """Read from the first byte on, a ring gives its head and its tail, each byte once, and the gap between them."""
    ring = HeadTailRing(head_limit=10, tail_limit=10)
    written = bytes(range(100))
    for start in range(0, 100, 7):
        ring.add(written[start : start + 7])
    after, seen, missed = 0, b"", 0
    while True:
        found = output_of(
            OutputReply(stdout=ring.piece(after), stderr=EMPTY, is_over=True), OutputOffsets(stdout=after)
        )
        seen, missed, after = seen + found.stdout.data, missed + found.stdout.missed, found.stdout.next_byte
        if found.is_all:
            break
    assert (seen, missed) == (written[:10] + written[-10:], 80)
