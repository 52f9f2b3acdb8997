"""The stream that host and sandbox speak over."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.sandboxes.stream import UnixStream, accept, connect, uid_on_macos

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


async def test_closed_under_a_pending_receive(pair: tuple[UnixStream, socket.socket]) -> None:
    """A stream that is closed while a task receives on it shows that task the end, and only then gives up its
    descriptor."""
    stream, theirs = pair
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        stream.close()
        assert stream._socket.fileno() >= 0
    assert stream._socket.fileno() == -1
    assert theirs.recv(1) == b""
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()


async def test_connecting_waits_for_room_in_the_queue(data: Path) -> None:
    """Who connects to a socket whose queue is full is connected once there is room, not to nothing."""
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as waiting:
        listening.bind(str(data / "full.sock"))
        listening.listen(0)
        first = waiting.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(str(data / "full.sock"))
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                async with await connect(str(data / "full.sock")) as stream:
                    await stream.send(b"here")

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            listening.accept()[0].close()
            accepted = await anyio.to_thread.run_sync(listening.accept)
            waiting.callback(accepted[0].close)
        assert accepted[0].recv(4) == b"here"


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


class Turns:
    """What another task gets to do."""

    count = 0


@asynccontextmanager
async def another_task() -> AsyncIterator[Turns]:
    turns = Turns()

    async def count() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            turns.count += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        yield turns
        tasks.cancel_scope.cancel()


async def test_others_have_a_turn_before_every_receive(pair: tuple[UnixStream, socket.socket]) -> None:
    """A peer that has always sent already keeps no other task, and no deadline, from running."""
    stream, theirs = pair
    theirs.send(b"x" * 100)
    async with another_task() as turns:
        for _ in range(100):
            await stream.receive(1)
        assert turns.count >= 99
    theirs.send(b"x" * 100)
    with anyio.move_on_after(0) as deadline:
        while True:
            await stream.receive(1)
    assert deadline.cancelled_caught


async def test_others_have_a_turn_before_every_accept(tmp_path: Path) -> None:
    """Diallers that queue up keep no other task from running."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "socket"))
        listening.listen(16)
        listening.setblocking(False)
        for _ in range(10):
            sockets.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "socket"))
        async with another_task() as turns:
            for _ in range(10):
                sockets.callback((await accept(listening)).close)
            assert turns.count >= 9


def test_who_connected_is_read_as_macos_tells_it() -> None:
    """Out of its own structure, of the version that we know; another one is an error and not a guess."""
    told = struct.pack("=IIh2x16I", 0, 501, 2, 20, 12, *[0] * 14)
    assert (len(told), uid_on_macos(told)) == (76, 501)
    with pytest.raises(OSError, match="version 0"):
        uid_on_macos(b"\1" + told[1:])
