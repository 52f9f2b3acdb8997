"""Frames between the supervisor and a kernel."""

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.frames import MAX_HEADER_BYTES, Frame, FrameDecoder, FrameViolation, encode_frame

HEADERS = st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20), max_size=4)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=6)


def decode_all(decoder: FrameDecoder) -> list[Frame]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_cutting_yields_the_same_frames(frames: list[tuple[dict[str, Any], bytes]], cuts: list[int]) -> None:
    """However the bytes are cut in transit, the frames that went in come out, in order."""
    wire = b"".join(encode_frame(header, body) for header, body in frames)
    decoder = FrameDecoder(max_body_bytes=1000)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in itertools.pairwise(edges):
        decoder.feed(wire[start:end])
    assert [(frame.header, frame.body) for frame in decode_all(decoder)] == frames


@given(st.binary(max_size=500))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    """Arbitrary bytes make frames, a wait for more, or a violation, and never any other exception."""
    decoder = FrameDecoder(max_body_bytes=100)
    try:
        decoder.feed(data)
    except FrameViolation:
        return
    for frame in decode_all(decoder):
        assert isinstance(frame.header, dict)
        assert len(frame.body) <= 100


@pytest.mark.parametrize(
    ("header_length", "body_length"), [(MAX_HEADER_BYTES + 1, 0), (2, 101), (2**32 - 1, 2**32 - 1)]
)
def test_lengths_above_the_caps_are_refused_before_reading(header_length: int, body_length: int) -> None:
    """A frame that announces too much is refused at its eighth byte."""
    with pytest.raises(FrameViolation, match="above the caps"):
        FrameDecoder(max_body_bytes=100).feed(struct.pack(">II", header_length, body_length))


@pytest.mark.parametrize("header", [b"[]", b"1", b"{", b"\xff\xff", b"[" * 5000])
def test_a_header_must_be_an_object(header: bytes) -> None:
    """Anything but a JSON object in the header is a violation."""
    with pytest.raises(FrameViolation):
        FrameDecoder(max_body_bytes=100).feed(struct.pack(">II", len(header), 0) + header)


def test_own_headers_are_capped_too() -> None:
    """Sending a header above the cap fails at the sender."""
    with pytest.raises(FrameViolation):
        encode_frame({"much": "x" * MAX_HEADER_BYTES})
