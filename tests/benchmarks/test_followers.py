"""What the benchmarks' client of event streams takes for an event."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.followers import Followers

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = (
    b"10\r\n: events of run_1\nretry: 1000\n\n\r\n40\r\nevent: RunSubmitted\ndata: {}\nid: 1\n\n\r\n",
    b"8\r\n: ping\n\n\r\n",
    b"40\r\nevent: CancelRequested\ndata: {}\nid: 2\n\nevent: RunFinished\ndata: {}\nid: 3\n\n\r\n0\r\n\r\n",
)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def in_pieces(size_bytes: int) -> Serve:
    """A server that sends the stream in pieces of so many bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        stream = HEAD + b"".join(EVENTS)
        for start in range(0, len(stream), size_bytes):
            writer.write(stream[start : start + size_bytes])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return serve


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def followed(serve: Serve, count: int) -> list[list[float]]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        followers = Followers(server.sockets[0].getsockname()[1], "key", "run_1")
        await followers.open(count)
        heard = [await followers.heard(event) for event in ("RunSubmitted", "CancelRequested", "RunFinished")]
        await followers.close()
    return heard


@pytest.mark.parametrize("size_bytes", [1, 7, 1000])
def test_every_follower_is_counted_once_for_every_event(size_bytes: int) -> None:
    """However a stream is cut, nobody is told twice and nobody is missed."""
    heard = asyncio.run(followed(in_pieces(size_bytes), count=3))
    assert [len(times) for times in heard] == [3, 3, 3]


def test_a_refused_follower_is_a_failure() -> None:
    """A row about followers that were turned away would mean nothing."""
    with pytest.raises(ValueError, match="expected to follow the run"):
        asyncio.run(followed(refuse, count=2))
