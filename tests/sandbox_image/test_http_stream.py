"""The strict reader of HTTP."""

import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_image.http_stream import BodyTooLarge, BufferedStream, StreamEnded, StreamViolation, encode_response


def stream_of(data: bytes) -> BufferedStream:
    """A connection on which all of `data` arrives, and then its end."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            theirs.sendall(data)

    threading.Thread(target=send).start()
    return BufferedStream(ours)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\na: 1\r\nA: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nname : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: 1\r\n" % i for i in range(65)) + b"\r\n",
        b"GET / HTTP/1.1\r\na: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
)
def test_heads_that_smuggle_are_refused(head: bytes) -> None:
    """Repeated, folded, malformed and endless headers are violations."""
    stream = stream_of(head)
    with pytest.raises(StreamViolation):
        stream.read_head()
    stream.connection.close()


@pytest.mark.parametrize(
    "framing", [b"transfer-encoding: chunked", b"content-length: -1", b"content-length: 1e3", b"content-length: +1"]
)
def test_bodies_have_a_plain_length(framing: bytes) -> None:
    """Only Content-Length in plain digits frames a body."""
    stream = stream_of(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
    head = stream.read_head()
    with pytest.raises(StreamViolation):
        stream.read_body(head, 100)
    stream.connection.close()


def test_a_body_above_the_cap_is_refused_unread() -> None:
    """The announced length decides, before a byte of the body is there."""
    stream = stream_of(b"POST / HTTP/1.1\r\ncontent-length: 101\r\n\r\n")
    head = stream.read_head()
    with pytest.raises(BodyTooLarge):
        stream.read_body(head, 100)
    stream.connection.close()


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_messages_follow_each_other(bodies: list[bytes]) -> None:
    """What is encoded is read back, message by message, and then the end."""
    stream = stream_of(b"".join(encode_response(200, body) for body in bodies))
    for body in bodies:
        head = stream.read_head()
        assert (head.start[1], stream.read_body(head, 1000)) == ("200", body)
    with pytest.raises(StreamEnded):
        stream.read_head()
    stream.connection.close()
