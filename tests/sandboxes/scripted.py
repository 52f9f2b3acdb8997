"""A scripted sandbox: a real peer on the real socket, that keeps to the protocol except where its script does not.

It stands in for the sandbox image where the image would never misbehave; the client under test is the real one.
"""

import asyncio
import hashlib
import hmac
import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from service.ids import SandboxId
from service.sandboxes.port import Isolation, Measured, SandboxStartFailed, Template
from service.sandboxes.socket_path import short_path
from service.sandboxes.stream import UnixStream

CAPTURED = {"head": "", "tail": "", "size_bytes": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the peer read it."""

    lane: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Stream(UnixStream):
    """The peer's end, which can do what no supervisor would."""

    def pass_descriptors(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send a short message and open files with it."""
        socket.send_fds(self._socket, [message], descriptors)

    def end_sending(self) -> None:
        """Half-close: it still receives."""
        self._socket.shutdown(socket.SHUT_WR)


Script = Callable[[Request, Stream], Awaitable[None]]


def http(status: int, body: bytes, *headers: str) -> bytes:
    """A well-formed answer."""
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def ok(message: object) -> bytes:
    return http(200, json.dumps(message).encode())


def refusal(status: int, code: str, message: str = "") -> bytes:
    return http(status, json.dumps({"code": code, "message": message}).encode())


def value(content: bytes, *, sha256: str | None = None, type_name: str = "str") -> bytes:
    digest = sha256 or hashlib.sha256(content).hexdigest()
    return http(200, content, f"x-rlm-type: {type_name}", f"x-rlm-sha256: {digest}")


def cell_reply(cell_id: str, **changes: object) -> dict[str, object]:
    """A cell that went well, with changes."""
    return {
        "cell_id": cell_id,
        "status": "ok",
        "stdout": CAPTURED,
        "stderr": CAPTURED,
        "raised": None,
        "variables": [],
        "answer": None,
        "namespace_lost": False,
        "detail": "",
        "wall_s": 0.1,
        "active_s": 0.1,
        "cpu_s": 0.1,
        **changes,
    }


async def honest(request: Request, stream: Stream) -> None:
    """What a sandbox with nothing in it would say."""
    match request.method, request.target.partition("?")[0].split("/")[1:]:
        case "POST", ["claim"]:
            await stream.send(ok({"python": "3.11", "confinement": ["seccomp"]}))
        case "PUT", ["cells", cell_id]:
            await stream.send(ok(cell_reply(cell_id)))
        case "POST", ["bind"]:
            await stream.send(ok({"variables": []}))
        case "GET", ["variables"]:
            await stream.send(ok({"variables": []}))
        case "GET", ["values", _]:
            await stream.send(value(b"content"))
        case "GET", ["stats"]:
            await stream.send(ok({"kernel_lives": 1, "running_cell": None, "host_calls_in_flight": 0}))
        case _:
            await stream.send(ok({}))


class ScriptedProcess:
    """Implements `port.Process`: the peer's tasks are the process."""

    def __init__(self) -> None:
        self.secret = ""
        self.scope = anyio.CancelScope()
        self.cpu_readings: Iterator[float | None] = itertools.repeat(None)
        self.memory_peak_bytes = 0
        self.is_paused = False
        self.is_unpausing = anyio.Event()
        self.may_unpause = anyio.Event()
        self.may_unpause.set()
        self._gone = anyio.Event()

    @property
    def is_running(self) -> bool:
        return not self._gone.is_set()

    @property
    def dialler_uid(self) -> int:
        return os.geteuid()

    async def kill(self) -> None:
        self.end()

    async def pause(self) -> bool:
        assert not self.is_paused
        self.is_paused = True
        return True

    async def unpause(self) -> None:
        """Waits for `may_unpause` with the deed done. What runs cannot be unpaused."""
        if not self.is_paused:
            raise SandboxStartFailed("it is not paused")
        self.is_paused = False
        self.is_unpausing.set()
        await self.may_unpause.wait()

    async def measure(self) -> Measured | None:
        cpu_s = next(self.cpu_readings)
        return None if cpu_s is None else Measured(cpu_s=cpu_s, memory_peak_bytes=self.memory_peak_bytes)

    def end(self) -> None:
        self.scope.cancel()
        self._gone.set()

    async def wait(self) -> str:
        await self._gone.wait()
        return "ended by its script"


@dataclass(slots=True, kw_only=True)
class ScriptedProvider:
    """Implements `port.Provider`. Each started sandbox answers with `script`; `requests` is what all were asked."""

    tasks: anyio.abc.TaskGroup
    script: Script = honest
    requests: list[Request] = field(default_factory=list)
    processes: list[ScriptedProcess] = field(default_factory=list)
    name: str = "scripted"

    async def isolation(self) -> Isolation:
        return Isolation(provider=self.name, level="none", multi_tenant=False)

    async def start(
        self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int
    ) -> ScriptedProcess:
        process = ScriptedProcess()
        self.processes.append(process)
        self.tasks.start_soon(self._live, process, directory)
        return process

    async def reap(self, directory: Path) -> None:
        return None

    async def dial(self, process: ScriptedProcess, directory: Path, lane: str) -> Stream:
        """One stream through its whole preface."""
        stream = await connect(directory)
        try:
            await stream.send(json.dumps({"protocol": 1, "lane": lane}).encode() + b"\n")
            said = json.loads(await read_line(stream))
            if "secret" in said:
                process.secret = said["secret"]
            else:
                proof = hmac.new(
                    bytes.fromhex(process.secret), b"rlm-dial" + bytes.fromhex(said["nonce"]), hashlib.sha256
                )
                await stream.send(json.dumps({"proof": proof.hexdigest()}).encode() + b"\n")
        except BaseException:
            stream.close()
            raise
        return stream

    async def _live(self, process: ScriptedProcess, directory: Path) -> None:
        """Both lanes, until it is ended or the host hangs up for good."""
        with process.scope:
            async with anyio.create_task_group() as lanes:
                for lane in ("cells", "control"):
                    if (stream := await self._dial_if_heard(process, directory, lane)) is None:
                        process.end()
                        return
                    lanes.start_soon(self._serve, process, directory, lane, stream)

    async def _serve(self, process: ScriptedProcess, directory: Path, lane: str, first: Stream) -> None:
        stream: Stream | None = first
        while stream is not None:
            try:
                while (request := await _read_request(lane, stream)) is not None:
                    self.requests.append(request)
                    await self.script(request, stream)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            finally:
                stream.close()
            stream = await self._dial_if_heard(process, directory, lane)

    async def _dial_if_heard(self, process: ScriptedProcess, directory: Path, lane: str) -> Stream | None:
        """None when the host listens no more, or hangs up before the preface is through."""
        try:
            return await self.dial(process, directory, lane)
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return None


async def connect(directory: Path) -> Stream:
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        with short_path(directory, "sandbox.sock") as path:
            await asyncio.get_running_loop().sock_connect(connecting, path)
    except BaseException:
        connecting.close()
        raise
    return Stream(connecting)


async def read_line(stream: Stream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive(1)
    return line


async def _read_request(lane: str, stream: Stream) -> Request | None:
    head = b""
    try:
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
    except anyio.EndOfStream:
        return None
    head, _, body = head.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive()
    method, target, _ = start.split(" ")
    return Request(lane=lane, method=method, target=target, headers=headers, body=body)
