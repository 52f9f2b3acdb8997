"""The stream that host and sandbox speak over."""

import asyncio
import socket
from collections.abc import Iterator

import anyio
import pytest

from service.sandboxes.stream import UnixStream

pytestmark = pytest.mark.anyio


@pytest.fixture
def pair() -> Iterator[tuple[UnixStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    stream = UnixStream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


async def test_cancelled_in_the_turn_in_which_bytes_arrive(pair: tuple[UnixStream, socket.socket]) -> None:
    """A receive that is cancelled just as its bytes arrive ends quietly: nothing reaches the event loop's handler,
    and the bytes are still there."""
    stream, theirs = pair
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        theirs.send(b"x")
        loop.call_soon(tasks.cancel_scope.cancel)
    loop.set_exception_handler(None)
    assert complaints == []
    assert await stream.receive() == b"x"


async def test_a_shut_down_ends_a_pending_receive(pair: tuple[UnixStream, socket.socket]) -> None:
    """A receive that waits sees the end of the stream, so that its own task can close it."""
    stream, _ = pair
    ended = anyio.Event()

    async def wait() -> None:
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        ended.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            stream.shut_down()
            await ended.wait()


async def test_bytes_that_nobody_asked_for_use_a_stream_up(pair: tuple[UnixStream, socket.socket]) -> None:
    """An idle stream with bytes on it, ended, or closed, is used up; a quiet one is not."""
    stream, theirs = pair
    assert not stream.is_used_up()
    theirs.send(b"unasked")
    assert stream.is_used_up()
    stream.close()
    assert stream.is_used_up()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()
