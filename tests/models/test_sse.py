"""The parser of server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.models.sse import SseParser

LIMIT = 200
FRAGMENTS = st.sampled_from(
    [
        b"data",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"event",
        b"data: {}",
        b"id: 1",
        b"\xef\xbb\xbf",
        b"\xff",
        b"x",
    ]
)
STREAMS = st.lists(FRAGMENTS | st.binary(max_size=30), max_size=60).map(b"".join)


def parse(chunks: list[bytes], limit_bytes: int = LIMIT) -> tuple[list[str], bool]:
    parser = SseParser(limit_bytes=limit_bytes)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events, parser.overflowed


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(STREAMS, st.lists(st.integers(min_value=0, max_value=10_000), max_size=20))
def test_chunking_does_not_matter(data: bytes, places: list[int]) -> None:
    """Any chunking of the same bytes gives the same events and the same verdict, and nothing raises."""
    whole = parse([data])
    assert parse(cut(data, places)) == whole
    assert parse([data[at : at + 1] for at in range(len(data))]) == whole


@given(st.lists(st.binary(max_size=80), max_size=60))
def test_memory_is_bounded(chunks: list[bytes]) -> None:
    """Whatever is fed, no event is larger than the limit, and after an overflow nothing is kept."""
    parser = SseParser(limit_bytes=64)
    for chunk in chunks:
        for event in parser.feed(chunk):
            assert len(event) <= 64
        pending = len(parser._line) + parser._data_bytes
        assert pending <= 64 + len(chunk)
        assert not (parser.overflowed and parser._line)


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1))
def test_what_is_sent_arrives(lines: list[str]) -> None:
    """An event of several data lines comes back joined by line feeds."""
    sent = "".join(f"data: {line}\n" for line in lines) + "\n"
    events, overflowed = parse([sent.encode()], 1 << 20)
    assert not overflowed
    assert events == ["\n".join(lines)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),
        (b"data: a\r\rdata: b\r\n\r\n", ["a", "b"]),
        (b"event: error\ndata: x\n\ndata: y\n\n", ["x", "y"]),
        (b": comment\n\ndata: a\n\n", ["a"]),
        (b"event: lonely\n\ndata: a\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data\n\n", [""]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"id: 1\nretry: 5\nunknown: z\ndata: a\n\n", ["a"]),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"data: \xff\n\n", ["\ufffd"]),
    ],
)
def test_the_grammar_of_the_standard(stream: bytes, events: list[str]) -> None:
    """Fields, comments, line ends, the byte order mark and broken ends are read as the standard says."""
    assert parse([stream])[0] == events


def test_a_line_over_the_limit_stops_the_parser() -> None:
    """Events before an overflow are given out, later ones are not."""
    events, overflowed = parse([b"data: a\n\n", b"data: " + b"x" * 300, b"\n\ndata: b\n\n"])
    assert overflowed
    assert events == ["a"]
