"""Who may dial, and what happens to everybody else."""

import hashlib
import hmac
import json
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from service.ids import SandboxId, new_id
from service.sandboxes.directory import create_session_directory
from service.sandboxes.listener import MAX_REFUSALS, MAX_WAITING, Lane, Listener, open_listener
from service.sandboxes.socket_path import short_path
from tests.machine import READABLE_PYTHON
from tests.sandboxes.scripted import Stream, connect, read_line

pytestmark = pytest.mark.anyio


class Socket:
    """A sandbox's socket as a dialler sees it."""

    def __init__(self, path: Path, listener: Listener) -> None:
        self.path = path
        self.listener = listener

    async def dial(self) -> Stream:
        return await connect(self.path)

    async def says(self, line: bytes) -> bytes:
        """What the host answers to a first line; b"" when it hangs up."""
        with closing(await self.dial()) as stream:
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
async def listening(data: Path, dialler_uid: int | None = None) -> AsyncIterator[Socket]:
    sandbox_id = SandboxId(new_id("sbx"))
    directory = create_session_directory(data / "sessions", sandbox_id)
    listener = open_listener(sandbox_id, directory)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, dialler_uid)
            yield Socket(directory.path, listener)
            await listener.close()
    finally:
        directory.remove()


async def test_the_first_stream_gets_the_secret_and_later_ones_prove_it(data: Path) -> None:
    """Two streams with the secret and the right proof reach the lanes that they named."""
    async with listening(data) as it:
        first, second = await it.dial(), await it.dial()
        await first.send(hello("cells"))
        secret = json.loads(await read_line(first))["secret"]
        await prove(second, secret, "control")
        cells, control = await it.listener.take("cells"), await it.listener.take("control")
        await cells.send(b"1")
        await control.send(b"2")
        assert (await first.receive(1), await second.receive(1)) == (b"1", b"2")
        for stream in (first, second, cells, control):
            stream.close()


async def test_without_the_secret_nobody_gets_a_lane(data: Path) -> None:
    """A dialler who comes second and guesses the proof is hung up on, and no stream waits."""
    async with listening(data) as it:
        assert await it.says(hello())
        with closing(await it.dial()) as second:
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
    async with listening(data) as it:
        first = await it.dial()
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
        for stream in (first, *streams):
            stream.close()


async def test_a_dialler_who_goes_on_being_wrong_ends_the_listener(data: Path) -> None:
    """After a bounded number of refusals nothing is accepted any more, so that dialling cannot wear the host out."""
    async with listening(data) as it:
        for _ in range(MAX_REFUSALS):
            assert await it.says(b"no\n") == b""
        with pytest.raises(anyio.ClosedResourceError):
            await it.listener.take("cells")
        with pytest.raises(OSError):  # noqa: PT011 - refused or missing, whichever comes first
            await it.dial()


async def test_a_stranger_gets_nothing_and_spoils_nothing(data: Path) -> None:
    """Whoever dials under another uid than the sandbox's gets no secret, and its garbage does not count."""
    async with listening(data, os.geteuid() + 1) as it:
        for _ in range(MAX_REFUSALS + 1):
            assert await it.says(hello()) == b""
        assert "0 refused, 65 strangers>" in repr(it.listener)


@pytest.mark.needs_root
@pytest.mark.needs_readable_python
async def test_another_user_of_the_machine_cannot_take_the_secret(data: Path) -> None:
    """Another uid that comes first and dials garbage for long is hung up on; the sandbox still gets its secret."""
    code = (
        "import socket, sys\n"
        "for line in [sys.argv[2].encode() + b'\\n'] + [b'garbage\\n'] * 70:\n"
        "    dialled = socket.socket(socket.AF_UNIX)\n"
        "    dialled.connect(sys.argv[1])\n"
        "    try:\n"
        "        dialled.sendall(line)\n"
        "        print(dialled.recv(100))\n"
        "    except OSError:\n"
        "        print(b'')\n"
    )
    (data / "sessions").mkdir(mode=0o711)
    async with listening(data, os.geteuid()) as it:
        stranger = [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            str(READABLE_PYTHON),
            "-c",
            code,
        ]
        done = await anyio.run_process([*stranger, str(it.path / "sandbox.sock"), hello().decode().strip()])
        assert done.stdout.split() == [b"b''"] * 71
        assert b"secret" in await it.says(hello())


async def test_a_long_data_directory_is_no_obstacle(data: Path) -> None:
    """A session directory whose path is longer than a socket address works all the same."""
    deep = data / "/".join(["deep" * 20] * 4)
    deep.mkdir(parents=True)
    async with listening(deep) as it:
        assert b"secret" in await it.says(hello())


async def test_a_cancelled_listener_leaves_no_stream_open(data: Path) -> None:
    """A dialler whose preface had not begun when the listener was cancelled is hung up on, not forgotten."""
    async with listening(data) as it:
        first = await it.dial()
        await it.listener.close()
        with closing(first), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await first.receive()


async def test_a_listener_out_of_descriptors_goes_on(data: Path) -> None:
    """While the operating system gives no more descriptors a dialler waits; it is served when there are some again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with listening(data) as it:
        dialling = await it.dial()
        await dialling.send(hello())
        await read_line(dialling)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closing(waiting), closing(dialling), short_path(it.path, "sandbox.sock") as path, capture_logs() as logs:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                waiting.connect(path)
                with anyio.fail_after(30):
                    while "sandbox_listener_waits" not in [line["event"] for line in logs]:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiting.sendall(hello())
            waiting.setblocking(False)
            with anyio.fail_after(30):
                await anyio.wait_readable(waiting)
            assert b"nonce" in waiting.recv(1000)


async def test_a_listener_that_never_served_closes_its_socket(data: Path) -> None:
    """Closing before the accepting task took its first step leaves no descriptor open."""
    sandbox_id = SandboxId(new_id("sbx"))
    directory = create_session_directory(data / "sessions", sandbox_id)
    listener = open_listener(sandbox_id, directory)
    await listener.close()
    assert listener._listening.fileno() == -1
    await listener.serve(None)
    directory.remove()
