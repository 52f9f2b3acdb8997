"""The rings that keep head and tail of what a cell printed."""

import os

from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.capture import HeadTailRing, OutputPipe


@given(st.lists(st.binary(max_size=40), max_size=40), st.integers(0, 60), st.integers(1, 60))
def test_head_and_tail_are_those_of_the_whole(pieces: list[bytes], head: int, tail: int) -> None:
    """Head and tail together are the whole text, or its first and last bytes when it is longer."""
    ring = HeadTailRing(head, tail)
    for piece in pieces:
        ring.add(piece)
    whole = b"".join(pieces)
    assert ring.size_bytes == len(whole)
    assert ring.head() == whole[:head]
    assert ring.tail() == whole[head:][-tail:]


def test_many_tiny_writes_stay_small() -> None:
    """A million one-byte writes are kept in a bounded number of pieces."""
    ring = HeadTailRing(10, 100)
    for _ in range(1_000_000):
        ring.add(b"x")
    assert (ring.size_bytes, ring.head(), ring.tail()) == (1_000_000, b"x" * 10, b"x" * 100)
    assert len(ring._tail) < 5000


def test_bytes_that_are_not_text_are_shown_as_escapes() -> None:
    """A report is always text, whatever was printed."""
    ring = HeadTailRing(10, 10)
    ring.add(b"\xff\xfeok")
    assert ring.captured().head == "\\xff\\xfeok"


def test_draining_takes_what_is_there_and_returns() -> None:
    """What was written before the call is captured, a stream that stays open does not hold the reader, and the next
    ring begins with what comes after."""
    read, write = os.pipe()
    pipe = OutputPipe(read)
    os.write(write, b"first")
    pipe.drain_what_is_written()
    first = pipe.take_ring()
    os.write(write, b"second")
    pipe.drain_what_is_written()
    assert (first.head(), pipe.take_ring().head()) == (b"first", b"second")
    assert pipe.drain_some()
    os.close(write)
    assert not pipe.drain_some()
    pipe.close()
