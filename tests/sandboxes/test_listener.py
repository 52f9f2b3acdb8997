"""Who may dial, and what happens to everybody else."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from service.ids import SandboxId, new_id
from service.sandboxes.directory import create_session_directory, short_path
from service.sandboxes.listener import MAX_REFUSALS, MAX_WAITING, Lane, Listener, open_listener
from tests.sandboxes.scripted import Stream, read_line

pytestmark = pytest.mark.anyio


class Socket:
    """A sandbox's socket as a dialler sees it."""

    def __init__(self, path: Path, listener: Listener) -> None:
        self.path = path
        self.listener = listener

    async def dial(self) -> Stream:
        with short_path(self.path, "sandbox.sock") as path:
            return await anyio.connect_unix(path)

    async def says(self, line: bytes) -> bytes:
        """What the host answers to a first line; b"" when it hangs up."""
        async with await self.dial() as stream:
            try:
                await stream.send(line)
                return await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return b""


def hello(lane: str = "cells", protocol: object = 1) -> bytes:
    return json.dumps({"protocol": protocol, "lane": lane}).encode() + b"\n"


async def prove(stream: Stream, secret: str, lane: Lane) -> None:
    await stream.send(hello(lane))
    nonce = json.loads(await read_line(stream))["nonce"]
    proof = hmac.new(bytes.fromhex(secret), b"rlm-dial" + bytes.fromhex(nonce), hashlib.sha256).hexdigest()
    await stream.send(json.dumps({"proof": proof}).encode() + b"\n")


@asynccontextmanager
async def listening(data: Path) -> AsyncIterator[Socket]:
    sandbox_id = SandboxId(new_id("sbx"))
    directory = create_session_directory(data / "sessions", sandbox_id)
    listener = await open_listener(sandbox_id, directory)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve)
            yield Socket(directory.path, listener)
            await listener.close()
    finally:
        directory.remove()


async def test_the_first_stream_gets_the_secret_and_later_ones_prove_it(data: Path) -> None:
    """Two streams with the secret and the right proof reach the lanes that they named."""
    async with listening(data) as it, await it.dial() as first, await it.dial() as second:
        await first.send(hello("cells"))
        secret = json.loads(await read_line(first))["secret"]
        await prove(second, secret, "control")
        async with await it.listener.take("cells") as cells, await it.listener.take("control") as control:
            await cells.send(b"1")
            await control.send(b"2")
            assert (await first.receive(1), await second.receive(1)) == (b"1", b"2")


async def test_without_the_secret_nobody_gets_a_lane(data: Path) -> None:
    """A dialler who comes second and guesses the proof is hung up on, and no stream waits."""
    async with listening(data) as it:
        assert await it.says(hello())
        async with await it.dial() as second:
            await prove(second, "00" * 32, "control")
            with pytest.raises(anyio.EndOfStream):
                await second.receive()
        assert "control: 0 waiting" in repr(it.listener)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"{}\n",
        b"[]\n",
        b"\n",
        b"\xff\xfe\n",
        b"[" * 1000 + b"\n",
        hello(protocol=2),
        hello(protocol=True),
        hello(protocol="1"),
        hello(lane="root"),
        hello()[:-1] + b" " * 2000 + b"\n",
        hello() + b"and more before it was asked\n",
    ],
)
async def test_a_preface_that_is_not_one_is_hung_up_on(data: Path, line: bytes) -> None:
    """Whatever is not exactly one short line of the expected JSON earns no secret."""
    async with listening(data) as it:
        assert await it.says(line) == b""
        assert b"secret" in await it.says(hello())


async def test_only_the_newest_streams_wait(data: Path) -> None:
    """A dialler with the secret cannot pile up streams: the oldest are pushed out."""
    async with listening(data) as it, await it.dial() as first:
        await first.send(hello())
        secret = json.loads(await read_line(first))["secret"]
        streams = []
        for _ in range(10):
            stream = await it.dial()
            await prove(stream, secret, "cells")
            streams.append(stream)
        with pytest.raises(anyio.EndOfStream):
            await first.receive()
        for stream in streams[: -MAX_WAITING - 1]:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        for stream in streams:
            await stream.aclose()


async def test_a_dialler_who_goes_on_being_wrong_ends_the_listener(data: Path) -> None:
    """After a bounded number of refusals nothing is accepted any more, so that dialling cannot wear the host out."""
    async with listening(data) as it:
        for _ in range(MAX_REFUSALS):
            assert await it.says(b"no\n") == b""
        with pytest.raises(anyio.ClosedResourceError):
            await it.listener.take("cells")
        with pytest.raises(OSError):  # noqa: PT011 - refused or missing, whichever comes first
            await it.dial()


async def test_a_long_data_directory_is_no_obstacle(data: Path) -> None:
    """A session directory whose path is longer than a socket address works all the same."""
    deep = data / "/".join(["deep" * 20] * 4)
    deep.mkdir(parents=True)
    async with listening(deep) as it:
        assert b"secret" in await it.says(hello())
