"""What connections to the gateway cost that are opened and left: little memory, for a bounded time, not too many."""

import contextlib
import fnmatch
import json
import os
import select
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from service.gateway.bounds import ConnectionBounds
from service.gateway.listener import ACCEPTED_AT_ONCE
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import HostCall, HostCallItem
from service.sandboxes.stream import UnixStream, connect
from tests.gateway.test_gateway import Reversing, bearer, body, gateway

pytestmark = pytest.mark.anyio

PATIENCE_S = 30
ANSWER_CHARS = 4 << 20
CONNECTIONS = 60


class Long(Reversing):
    """Answers every call with the same long text."""

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        under_way.items.append(HostCallItem(value="x" * ANSWER_CHARS))


def request(token: str) -> bytes:
    content = json.dumps(body()).encode()
    lines = [
        "POST /host-calls HTTP/1.1",
        "host: g",
        f"authorization: Bearer {token}",
        f"content-length: {len(content)}",
    ]
    return "\r\n".join([*lines, "\r\n"]).encode() + content


async def dial(directory: Path) -> UnixStream:
    (name,) = fnmatch.filter(os.listdir(directory), "gateway-*.sock")
    return await connect(str(directory / name))


async def wait_until(holds: Callable[[], bool]) -> None:
    """Raises `TimeoutError` where it never does."""
    with anyio.fail_after(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what others do to a socket tells nobody
            await anyio.sleep(0.01)


async def is_ended(stream: UnixStream) -> bool:
    """Whether the gateway hangs up, whatever it says before."""
    with anyio.fail_after(PATIENCE_S):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


async def test_replies_that_nobody_reads_take_no_memory(tmp_path: Path) -> None:
    """Sixty connections ask for a recorded answer of megabytes and read none of it: what is held of it is held once."""
    async with gateway(tmp_path, maker=Long()) as (client, token):
        assert (await client.post("/host-calls", json=body(), headers=bearer(token))).status_code == 200
        restart_peak()
        before = resident_bytes()
        streams = [await dial(tmp_path) for _ in range(CONNECTIONS)]
        for stream in streams:
            await stream.send(request(token))
        await wait_until(lambda: all(stream.holds_bytes() for stream in streams))
        assert peak_bytes() - before < CONNECTIONS * ANSWER_CHARS // 3
        for stream in streams:
            stream.close()


async def test_a_long_answer_arrives_whole(tmp_path: Path) -> None:
    """What is written piece by piece is the answer, and the connection serves on."""
    async with gateway(tmp_path, maker=Long()) as (client, token):
        for _ in range(2):
            reply = await client.post("/host-calls", json=body(), headers=bearer(token))
            assert [item["value"] for item in reply.json()["items"]] == ["x" * ANSWER_CHARS]


async def test_a_sandbox_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    """One above the bound is hung up on; when another is closed there is room again."""
    async with gateway(tmp_path, bounds=ConnectionBounds(connections=3)) as (_, token):
        streams = [await dial(tmp_path) for _ in range(3)]
        for stream in streams:
            await stream.send(request(token))
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        async with await dial(tmp_path) as above:
            assert await is_ended(above)
        streams[0].close()
        with anyio.fail_after(PATIENCE_S):
            while not await _is_served(tmp_path, token):  # noqa: ASYNC110 - until the gateway has heard of that end
                await anyio.sleep(0.01)
        for stream in streams[1:]:
            stream.close()


async def test_whoever_connects_without_end_leaves_others_their_turn(tmp_path: Path) -> None:
    """Of a queue of connections a few are taken in at a time, and everything else has its turn in between."""
    async with gateway(tmp_path), AsyncExitStack() as streams:
        path = str(tmp_path / fnmatch.filter(os.listdir(tmp_path), "gateway-*.sock")[0])
        for _ in range(120):  # all in the queue before the loop looks at it: nothing is awaited here
            waiting = streams.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(path)
        before, most = len(os.listdir("/proc/self/fd")), 0
        last = before
        while last < before + 120:
            await anyio.lowlevel.checkpoint()
            now = len(os.listdir("/proc/self/fd"))
            most, last = max(most, now - last), now
        assert most <= ACCEPTED_AT_ONCE


CONNECTS = """
import os, select, socket, sys
os.setgroups([])
os.setresgid(910_000_123, 910_000_123, 910_000_123)
os.setresuid(910_000_123, 910_000_123, 910_000_123)
made = []
for _ in range(3):
    made.append(socket.socket(socket.AF_UNIX))
    made[-1].connect(sys.argv[1])
print("made", flush=True)
sys.stdin.readline()
print(sum(not select.select([each], [], [], 0)[0] for each in made), flush=True)
"""


@pytest.mark.needs_root
async def test_the_processes_of_a_sandbox_count_together() -> None:
    """Where a sandbox has a uid of its own, that is what counts, however many processes it has."""
    with tempfile.TemporaryDirectory(prefix="rlm-peers-") as name:
        directory = Path(name)
        os.chmod(name, 0o755)
        async with gateway(directory, bounds=ConnectionBounds(connections=4)), AsyncExitStack() as stack:
            (socket_name,) = fnmatch.filter(os.listdir(directory), "gateway-*.sock")
            words = [sys.executable, "-I", "-S", "-c", CONNECTS, str(directory / socket_name)]
            children = [await stack.enter_async_context(await anyio.open_process(words)) for _ in range(2)]
            with anyio.fail_after(PATIENCE_S):
                for child in children:
                    assert child.stdout is not None
                    assert await child.stdout.receive() == b"made\n"
                held = []
                for child in children:
                    assert child.stdin is not None
                    assert child.stdout is not None
                    await child.stdin.send(b"count\n")
                    held.append(int(await child.stdout.receive()))
        assert sum(held) == 4


async def _is_served(directory: Path, token: str) -> bool:
    async with await dial(directory) as stream:
        try:
            await stream.send(request(token))
            return (await stream.receive()).startswith(b"HTTP/1.1 200 ")
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False


@pytest.mark.parametrize("sent", [b"", b"POST /host-c", b"POST /host-calls HTTP/1.1\r\nhost: g\r\n"])
async def test_who_connects_and_does_not_ask_is_hung_up_on(tmp_path: Path, sent: bytes) -> None:
    """A request has a time to come in, from the connection to its last byte."""
    async with gateway(tmp_path, bounds=ConnectionBounds(request_s=0.1)), await dial(tmp_path) as stream:
        if sent:
            await stream.send(sent)
        assert await is_ended(stream)


async def test_half_a_body_is_waited_for_no_longer_than_half_a_head(tmp_path: Path) -> None:
    """A grant does not help whoever never finishes asking."""
    async with gateway(tmp_path, bounds=ConnectionBounds(request_s=0.1)) as (_, token), await dial(tmp_path) as stream:
        await stream.send(request(token)[:-5])
        assert await is_ended(stream)


async def test_who_does_not_read_a_reply_is_hung_up_on(tmp_path: Path) -> None:
    """Of a long reply no more comes than was on its way when the time for reading it was over."""
    async with (
        gateway(tmp_path, maker=Long(), bounds=ConnectionBounds(unread_s=0.1)) as (_, token),
        await dial(tmp_path) as stream,
    ):
        await stream.send(request(token))
        await wait_until(lambda: _is_hung_up(stream))
        assert 0 < await _rest_of(stream) < ANSWER_CHARS


def _is_hung_up(stream: UnixStream) -> bool:
    """Without reading anything."""
    poll = select.poll()
    poll.register(stream._socket, 0)
    return bool(poll.poll(0))


async def _rest_of(stream: UnixStream) -> int:
    """How many bytes come until the other side's end."""
    received = 0
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            received += len(await stream.receive())
    return received
