"""Who may speak to the launcher, which request does what, and the lease that a caller holds on a sandbox.

Only one uid may speak: the socket is its, mode 0600, and the operating system's word on each peer is checked besides
(a uid with the right to open any file could connect otherwise).
"""

import os
import resource
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import assert_never

import anyio
import structlog
from pydantic import BaseModel, ValidationError

from service.sandboxes.launcher.containers import Containers
from service.sandboxes.launcher.engine import CALLS_AT_ONCE, EngineFailed
from service.sandboxes.launcher.held import Held, Refused
from service.sandboxes.launcher.owners import owner_of
from service.sandboxes.launcher.protocol import (
    REQUEST,
    AttachRequest,
    CapabilitiesReply,
    CapabilitiesRequest,
    DoneReply,
    EndedReply,
    KillRequest,
    OfferedImage,
    PauseRequest,
    ReapRequest,
    RefusedReply,
    StartedReply,
    StartRequest,
    StatsReply,
    StatsRequest,
    UnpauseRequest,
)
from service.sandboxes.launcher.turns import Turns
from service.sandboxes.launcher.wire import WireBroken, receive_line, send_message
from service.sandboxes.socket_path import short_path
from service.sandboxes.stream import UnixStream, accept

REQUEST_DEADLINE_S = 5.0
REPLY_DEADLINE_S = 5.0
MAX_CONNECTIONS = 8192
"""Where this process may open that many files; else fewer."""
OTHER_FILES = 128
"""What the launcher opens besides: the engine's connections, directories that are looked at, its own."""
MOST_OF_ONE_CLIENT = CALLS_AT_ONCE - 2
"""Requests of one process that are worked on at once. Processes that cannot be told apart (from another PID namespace
they have no number) count as one."""
BACKLOG = 128
ACCEPT_PAUSE_S = 0.2
"""After a connection could not be accepted, for want of files mostly: until some are closed."""

_log = structlog.get_logger(__name__)


class Server:
    """Serves one socket."""

    def __init__(self, containers: Containers, *, client_uid: int) -> None:
        self._containers = containers
        self._client_uid = client_uid
        self._most = most_connections(_open_file_limit())
        self._connections = anyio.Semaphore(self._most)
        self._turns = Turns(MOST_OF_ONE_CLIENT)

    async def serve(self, listening: socket.socket) -> None:
        """Until cancelled. Sandboxes live on then: whoever ends them decides that."""
        async with anyio.create_task_group() as connections:
            refused = False
            while True:
                try:
                    stream = await accept(listening)
                except OSError as exc:
                    if not refused:
                        _log.error("launcher_cannot_accept", reason=str(exc))
                    refused = True
                    await anyio.sleep(ACCEPT_PAUSE_S)
                    continue
                refused = False
                connections.start_soon(self._answer, stream)

    async def _answer(self, stream: UnixStream) -> None:
        async with stream:
            pid, uid = stream.peer()
            if uid != self._client_uid:
                _log.warning("launcher_peer_refused", uid=uid, expected=self._client_uid)
                return
            try:
                self._connections.acquire_nowait()
            except anyio.WouldBlock:
                _log.warning("launcher_full", connections=self._most)
                return
            try:
                await self._serve_one(stream, pid)
            except WireBroken as exc:
                _log.info("launcher_connection_broke", reason=str(exc))
            finally:
                self._connections.release()

    async def _serve_one(self, stream: UnixStream, client: int) -> None:
        line = await receive_line(stream, REQUEST_DEADLINE_S)
        async with self._turns.of(client):
            reply, held = await self._replied(line)
        if held is None:
            await send_message(stream, reply, REPLY_DEADLINE_S)
            return
        await self._lease(stream, held, reply)

    async def _replied(self, line: bytes) -> tuple[BaseModel, Held | None]:
        """What to answer, and the sandbox that whoever asked holds from now on."""
        held: Held | None = None
        reply: BaseModel
        try:
            request = REQUEST.validate_json(line)
            match request:
                case StartRequest():
                    held = await self._containers.start(request)
                    reply = StartedReply(pid=held.pid)
                case AttachRequest():
                    held = await self._containers.attach(request.sandbox_id, owner_of(request.owner_key))
                    reply = StartedReply(pid=held.pid)
                case _:
                    reply = await self._do(request)
        except ValidationError as exc:
            reply = RefusedReply(why="unusable", message=_first_fault(exc))
        except Refused as exc:
            reply = RefusedReply(why="unusable", message=str(exc)[:500])
        except EngineFailed as exc:
            reply = RefusedReply(why="refused" if exc.fault.is_of_machine else "failed", message=exc.reason)
        return reply, held

    async def _do(
        self,
        request: KillRequest | PauseRequest | UnpauseRequest | StatsRequest | ReapRequest | CapabilitiesRequest,
    ) -> BaseModel:
        match request:
            case KillRequest():
                await self._containers.kill(request.sandbox_id, owner_of(request.owner_key))
                return DoneReply()
            case PauseRequest():
                await self._containers.pause(request.sandbox_id, owner_of(request.owner_key))
                return DoneReply()
            case UnpauseRequest():
                await self._containers.unpause(request.sandbox_id, owner_of(request.owner_key))
                return DoneReply()
            case StatsRequest():
                usage = await self._containers.usage(request.sandbox_id, owner_of(request.owner_key))
                return StatsReply(
                    memory_bytes=usage.memory_bytes,
                    memory_peak_bytes=usage.memory_peak_bytes,
                    cpu_s=usage.cpu_s,
                    processes=usage.processes,
                )
            case ReapRequest():
                await self._containers.reap(request.sandbox_id)
                return DoneReply()
            case CapabilitiesRequest():
                facts, images = await self._containers.capabilities()
                return CapabilitiesReply(
                    engine_version=facts.version,
                    runtimes=list(facts.runtimes),
                    seccomp=facts.seccomp,
                    images=[
                        OfferedImage(
                            name=name,
                            present=image is not None,
                            protocol="" if image is None else image.protocol,
                            sources="" if image is None else image.sources,
                        )
                        for name, image in images
                    ],
                )
            case _:
                assert_never(request)

    async def _lease(self, stream: UnixStream, held: Held, reply: BaseModel) -> None:
        """The sandbox lives while the caller does. Cancelling this, the launcher's own end, leaves it running."""
        caller_left = False

        async def watch_caller() -> None:
            nonlocal caller_left
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive(1)
            caller_left = True
            either.cancel_scope.cancel()

        with self._containers.leased(held):
            try:
                await send_message(stream, reply, REPLY_DEADLINE_S)
            except WireBroken:
                caller_left = True
            else:
                async with anyio.create_task_group() as either:
                    either.start_soon(watch_caller)
                    await held.ended.wait()
                    either.cancel_scope.cancel()
        if held.ended.is_set():
            await send_message(stream, EndedReply(exit_status=held.exit_status or 0), REPLY_DEADLINE_S)
        elif caller_left:
            _log.info("sandbox_lease_ended", sandbox_id=held.sandbox_id)
            try:
                await self._containers.kill(held.sandbox_id, held.owner)
            except EngineFailed as exc:
                _log.error("sandbox_not_killed", sandbox_id=held.sandbox_id, reason=exc.reason)


@asynccontextmanager
async def open_socket(path: Path, client_uid: int) -> AsyncIterator[socket.socket]:
    """The launcher's socket, listening, open to one uid. A socket that a dead launcher left is replaced."""
    await anyio.Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.setblocking(False)
        before = os.umask(0o177)  # nobody else may connect in the moment before chown
        try:
            with short_path(path.parent, path.name) as short:
                listening.bind(short)
        finally:
            os.umask(before)
        try:
            if client_uid != os.geteuid():
                os.chown(path, client_uid, -1)
            listening.listen(BACKLOG)
            yield listening
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.Path(path).unlink(missing_ok=True)


def most_connections(open_files: int) -> int:
    """How many connections leave enough open files for everything else."""
    return min(MAX_CONNECTIONS, max(open_files - OTHER_FILES, open_files // 2, 1))


def raise_open_file_limit() -> None:
    """As far as this process may: each lease is a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_file_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _first_fault(exc: ValidationError) -> str:
    """Where and what, never the value: it may be anything."""
    fault = exc.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the request"
    return f"{place[:100]}: {fault['msg'][:200]}"
