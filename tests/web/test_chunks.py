"""What the chunks of a body may be: their number costs the loop, not their bytes."""

import h11
import pytest

from service.web import chunks
from service.web.chunks import ChunkBoundedParser

HEAD = b"POST /v1/contexts HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(size_bytes: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size_bytes, b"a" * size_bytes)


def events_of(sent: bytes, *, at_once: int = 1 << 20) -> list[object]:
    """What the parser makes of the bytes, which come so many at once."""
    parser, events = ChunkBoundedParser(1 << 16), list[object]()
    for start in range(0, len(sent), at_once):
        parser.receive_data(sent[start : start + at_once])
        while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            events.append(event)
    return events


def test_many_chunks_of_one_byte_end_in_a_refusal() -> None:
    """The parser takes in no more of them than are free, however many have come."""
    parser = ChunkBoundedParser(1 << 16)
    parser.receive_data(HEAD + chunk(1) * 43_000)
    for _ in range(1 + chunks.FREE_CHUNKS):
        parser.next_event()
    with pytest.raises(h11.RemoteProtocolError, match="chunks of less than 8 bytes"):
        parser.next_event()
    assert parser.complaint is not None


@pytest.mark.parametrize("at_once", [1 << 20, 7, 1])
@pytest.mark.parametrize(
    "body",
    [
        chunk(chunks.LEAST_MEAN_BYTES) * 2000,
        chunk(1) * chunks.FREE_CHUNKS,
        chunk(1 << 16) + chunk(1) * 2000,
        chunk(1) * chunks.FREE_CHUNKS + chunk(1 << 16) + chunk(1) * 2000,
    ],
    ids=["small", "few", "large first", "large in between"],
)
def test_other_bodies_pass_however_they_come(body: bytes, at_once: int) -> None:
    """Small chunks, a few tiny ones, and tiny ones beside large ones are a body."""
    assert isinstance(events_of(HEAD + body + END, at_once=at_once)[-1], h11.EndOfMessage)


def test_a_body_with_a_length_may_come_byte_by_byte() -> None:
    """How the network cuts it up is not the client's choice, and no framing of it."""
    head = b"POST /v1/contexts HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n"
    assert isinstance(events_of(head + b"a" * 2000, at_once=1)[-1], h11.EndOfMessage)
