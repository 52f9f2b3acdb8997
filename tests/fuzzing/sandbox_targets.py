"""What a sandbox says to the host, a kernel to its supervisor, and whoever finds the launcher's socket to the launcher:
each over what it really comes by, a socket or a tree of files, where the form of it is more than bytes."""

import atexit
import contextlib
import functools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpcore
import structlog.testing
from pydantic import TypeAdapter, ValidationError

from sandbox_image.decoding import NotThatShape, decode_value, parse_json
from sandbox_image.files import FileRefused, WorkingFiles
from sandbox_image.kernel_messages import CellOutcome, KernelReady, ValueOutcome, bound_outcome
from sandbox_image.protocol import MAX_TRACEBACK_CHARS, BindReply, ErrorReply, PutFileRequest, VariablesReply
from service.sandboxes import replies
from service.sandboxes.dialled_stream import DialledStream, ProtocolBroken
from service.sandboxes.launcher.protocol import REPLY, REQUEST
from service.sandboxes.launcher.wire import WireBroken, receive_line
from service.sandboxes.link import Answer
from service.sandboxes.listener import Listener
from service.sandboxes.stream import UnixStream
from tests.sandboxes.scripted import connect

_MOST_BYTES = 60_000
"""That a socket takes before anybody reads."""
_DEADLINE_S = 30.0
_ORIGIN = httpcore.Origin(b"http", b"sandbox", 80)
_REPLIES: tuple[TypeAdapter[Any], ...] = (
    *(replies.CLAIM, replies.BIND, replies.CELL, replies.VARIABLES),
    *(replies.STATS, replies.ERROR, replies.OUTPUT, replies.FILES),
)
_OF_KERNEL = (KernelReady, CellOutcome, ValueOutcome, BindReply, VariablesReply, ErrorReply)


@contextlib.asynccontextmanager
async def _sent(data: bytes) -> AsyncIterator[UnixStream]:
    """The end at which all of it arrives, and then the end."""
    near, far = socket.socketpair()
    with far:
        far.sendall(data[:_MOST_BYTES])
        far.shutdown(socket.SHUT_WR)
        async with UnixStream(near) as stream:
            yield stream


def _within_deadline(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        with anyio.fail_after(_DEADLINE_S):
            await work()

    anyio.run(run)


def answers(data: bytes) -> None:
    """An answer's head and body are read within their bounds, or the protocol is broken."""

    async def ask() -> None:
        async with _sent(data) as stream, httpcore.AsyncHTTP11Connection(_ORIGIN, DialledStream(stream)) as connection:
            response = await connection.handle_async_request(
                httpcore.Request(b"GET", httpcore.URL("http://sandbox/"), headers=[(b"host", b"sandbox")])
            )
            assert 200 <= response.status < 600
            body = await Answer(response).read(1000)
            assert len(body) <= 1000
            await response.aclose()

    with contextlib.suppress(ProtocolBroken, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        _within_deadline(ask)


def prefaces(data: bytes) -> None:
    """Only who says hello is told the secret, and after that nobody without it has a lane."""

    async def dial() -> None:
        with tempfile.TemporaryDirectory(prefix="rlm-fuzz-") as place:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.setblocking(False)
            listening.bind(f"{place}/sandbox.sock")
            listening.listen()
            listener = Listener("fuzzed", listening)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, None)
                for has_secret_been_told in (False, True):
                    async with await connect(Path(place)) as stream:
                        with contextlib.suppress(anyio.BrokenResourceError, OSError):
                            await stream.send(data[:_MOST_BYTES])
                            stream.end_sending()
                        told = await _until_closed(stream)
                        is_hello = _is_hello(data)
                        if has_secret_been_told and is_hello:
                            assert b"nonce" in told
                        assert (b"secret" in told) == (is_hello and not has_secret_been_told)
                    if not is_hello:
                        break
                assert f"{int(is_hello)} waiting" in repr(listener)
                assert "2 waiting" not in repr(listener)
                await listener.close()

    with structlog.testing.capture_logs():  # of each refusal, which there are to be thousands of
        _within_deadline(dial)


async def _until_closed(stream: UnixStream) -> bytes:
    """One line that comes back, or what comes before the end."""
    told = b""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while not told.endswith(b"\n"):
            told += await stream.receive()
    return told


def _is_hello(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return (
        data.endswith(b"\n")
        and data.count(b"\n") == 1
        and isinstance(found, dict)
        and set(found) == {"protocol", "lane"}
        and found["protocol"] == 1
        and found["protocol"] is not True
        and found["lane"] in ("cells", "control")
    )


def launcher_lines(data: bytes) -> None:
    """A request or a reply of one line, which says the same when it is written again; or none."""

    async def receive() -> None:
        async with _sent(data) as stream:
            line = await receive_line(stream, _DEADLINE_S)
        for shape in (REQUEST, REPLY):
            with contextlib.suppress(ValidationError):
                found = shape.validate_json(line)
                assert shape.validate_json(found.model_dump_json()) == found

    with contextlib.suppress(WireBroken):
        _within_deadline(receive)


def kernel_words(data: bytes) -> None:
    """What a kernel answers is of the asked shape and cut to its bounds, or refused."""
    for shape in _OF_KERNEL:
        with contextlib.suppress(NotThatShape):
            found = decode_value(shape, parse_json(data))
            if isinstance(found, CellOutcome):
                raised = bound_outcome(found).raised
                assert raised is None or len(raised.traceback) <= MAX_TRACEBACK_CHARS


def all_replies(data: bytes) -> None:
    """Each is of its shape and within its bounds, or breaks the protocol."""
    for shape in _REPLIES:
        with contextlib.suppress(ProtocolBroken):
            found = replies.parse(shape, data)
            if hasattr(found, "variables") and not hasattr(found, "cell_id"):
                replies.variables(found.variables, replies.MAX_BOUND_VARIABLES)


def value_heads(data: bytes) -> None:
    """A value's type is shown and its digest compared, or it breaks the protocol."""
    text = data.decode("latin-1")
    with contextlib.suppress(ProtocolBroken):
        assert len(replies.value_type(text)) <= len(text)
    with contextlib.suppress(ProtocolBroken):
        assert len(replies.digest(text)) == 64


def paths_in_a_tree(data: bytes) -> None:
    """Whatever a path says, what is read is a file of the tree, and nothing outside is changed."""
    path = data.decode("utf-8", "surrogateescape")
    place, files = _place()
    _plant(place / "tree")
    with contextlib.suppress(FileRefused):
        assert files.read(path, 0, 100, "").data == b"inside"
    with contextlib.suppress(FileRefused):
        files.put(PutFileRequest(path=path, source="new", size_bytes=3))
        assert files.read(path, 0, 100, "").data == b"new"
    with contextlib.suppress(FileRefused):
        files.delete(path)
    assert {file.name: file.read_bytes() for file in (place / "outside").iterdir()} == {"f": b"outside"}
    assert [file.name for file in (place / "sources").iterdir()] == ["new"]
    assert sorted(file.name for file in place.iterdir()) == ["outside", "sources", "tree"]


@functools.cache
def _place() -> tuple[Path, WorkingFiles]:
    """A tree, with what must not be reached beside it; for as long as this process lives, like a supervisor's."""
    place = Path(tempfile.mkdtemp(prefix="rlm-fuzz-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for name in ("outside", "sources", "tree"):
        (place / name).mkdir()
    (place / "outside" / "f").write_bytes(b"outside")
    (place / "sources" / "new").write_bytes(b"new")
    return place, WorkingFiles(str(place / "tree"), str(place / "sources"))


def _plant(tree: Path) -> None:
    """The same tree each time."""
    for old in tree.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    (tree / "in" / "deep").mkdir(parents=True)
    for file in (tree / "f", tree / "in" / "f", tree / "in" / "deep" / "f"):
        file.write_bytes(b"inside")
    (tree / "way").symlink_to("../outside")
    (tree / "in" / "up").symlink_to("..")
    (tree / "link").symlink_to("../outside/f")
    os.mkfifo(tree / "pipe")


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(answers, prefaces, launcher_lines, kernel_words),
        *(all_replies, value_heads, paths_in_a_tree),
    )
}
_CAPTURED = b'{"head": "", "tail": "", "size_bytes": 0}'
_KEY = b'"owner_key": "' + b"0" * 64 + b'"'
_NAME = b'"sandbox_id": "sbx_' + b"0" * 32 + b'"'
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "answers": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000,
        b"HTTP/1.1 404 x\r\nContent-Length: 0\r\nx-rlm-type: str\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ),
    "prefaces": (
        b'{"protocol": 1, "lane": "cells"}\n',
        b'{"protocol": 1, "lane": "control"}\n',
        b'{"proof": "00"}\n',
    ),
    "launcher_lines": (
        b'{"op": "kill", ' + _NAME + b", " + _KEY + b"}\n",
        b'{"op": "start", ' + _NAME + b", " + _KEY + b', "image": "a:b", "runtime": "runc", "memory_bytes": 268435456, '
        b'"tmp_bytes": 16777216, "processes": 32, "open_files": 256, "file_bytes": 0, "hash_seed": 1, "life_s": 60}\n',
        b'{"op": "capabilities"}\n',
        b'{"kind": "started", "pid": 1}\n',
        b'{"kind": "stats", "memory_bytes": 1, "memory_peak_bytes": 1, "cpu_s": 0.5, "processes": 1}\n',
    ),
    "kernel_words": (
        b'{"status": "ok", "raised": null, "variables": ["a"], "answer": null}',
        b'{"status": "raised", "raised": {"type_name": "E", "message": "", "traceback": ""}, "variables": [], '
        b'"answer": {"ready": true, "type_name": "str", "size_bytes": 1, "sha256": ""}}',
        b'{"confinement": ["seccomp"]}',
        b'{"type_name": "str", "size_bytes": 1, "sha256": ""}',
        b'{"variables": [{"name": "a", "type_name": "str", "size": null}]}',
        b'{"code": "too_large", "message": ""}',
    ),
    "all_replies": (
        b'{"python": "3.11", "confinement": ["seccomp"]}',
        b'{"variables": [{"name": "a", "type_name": "str", "size": 1}]}',
        b'{"kernel_lives": 1, "running_cell": null, "host_calls_in_flight": 0}',
        b'{"code": "busy", "message": "\\ud800"}',
        b'{"stdout": ' + _CAPTURED + b', "stderr": ' + _CAPTURED + b"}",
        b'{"files": [{"path": "a/b", "size_bytes": 1}], "is_complete": true}',
    ),
    "value_heads": (b"str", b"0" * 64, b"list[str]\x1b[2J"),
    "paths_in_a_tree": (
        *(b"f", b"in/deep/f", b"in/new", b"new/deep/er", b"way/f", b"in/up/f", b"link", b"pipe", b"in"),
        *(b"../outside/f", b"in/../../outside/f", b"./f", b"/f", b"in//f", b"f/", b"\xff", b".rlm-0"),
    ),
}
