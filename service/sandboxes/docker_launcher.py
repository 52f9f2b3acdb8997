"""The caller's side of the launcher: asks it, holds leases on sandboxes, and starts one where there is none.

On the embedded default the launcher is a child of the service. It gets no environment of ours, so that no key reaches
the process with the Docker socket, and it ends, with all its sandboxes, when this process does.
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.abc
import structlog
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import BaseModel, ValidationError

import service
from service.sandboxes.launcher.protocol import (
    REPLY,
    AttachRequest,
    CapabilitiesReply,
    CapabilitiesRequest,
    DoneReply,
    EndedReply,
    KillRequest,
    PauseRequest,
    ReapRequest,
    RefusedReply,
    StartedReply,
    StartRequest,
    StatsReply,
    StatsRequest,
    UnpauseRequest,
)
from service.sandboxes.launcher.wire import WireBroken, receive_line, send_message
from service.sandboxes.port import SandboxRefused, SandboxStartFailed
from service.sandboxes.socket_path import short_path
from service.sandboxes.stream import UnixStream, connect

CONNECT_DEADLINE_S = 5.0
REPLY_DEADLINE_S = 150.0
"""The launcher may wait for the engine twice, a minute each time, and ask before whether it is there."""
RETURN_DEADLINE_S = 30.0
"""For a launcher that went away to be there again."""
_RETURN_PAUSE_S = 0.2
_UNPAUSE_ATTEMPTS = 2
"""The second is for a launcher that ended with the first in its hands."""
READY_DEADLINE_S = 30.0
_LONGEST_LOG_LINE = 4096
_LAST_LINES_S = 2.0
"""For what a child logged last to be read."""
_STOP_DEADLINE_S = 40.0

_IMPORTED_FROM = str(Path(service.__file__).resolve().parents[1])

_log = structlog.get_logger(__name__)
_R = TypeVar("_R", bound=BaseModel)


class LauncherGone(Exception):
    """No launcher answers. Never leaves this room."""


class Lease:
    """A sandbox that runs as long as this is held."""

    def __init__(self, launcher: "Launcher", sandbox_id: str, stream: UnixStream, pid: int) -> None:
        self._launcher = launcher
        self._sandbox_id = sandbox_id
        self._stream = stream
        self._closed = anyio.Event()
        self.pid = pid

    @property
    def has_ended(self) -> bool:
        """Whether the launcher has said so already; never waits."""
        if self._closed.is_set():
            return True
        return self._stream.holds_bytes()

    async def ended(self) -> int | None:
        """The exit status, once it has ended; None when the launcher went away and did not come back, and so the
        sandbox is lost to us. A launcher that does come back is asked to let us hold the sandbox again."""
        while True:
            try:
                line = await receive_line(self._stream, None)
                reply = REPLY.validate_json(line)
                return reply.exit_status if isinstance(reply, EndedReply) else None
            except (WireBroken, ValidationError):
                pass
            if self._closed.is_set():
                return None
            self._stream.close()
            stream = await self._launcher.attached(self._sandbox_id)
            if stream is None:
                return None
            if self._closed.is_set():  # while it was asked for
                stream.close()
                return None
            self._stream = stream

    def close(self) -> None:
        """Let go: the launcher ends the sandbox, if it still runs."""
        self._closed.set()
        self._stream.close()


class Launcher:
    """A launcher that listens at `socket_path`, as one owner of sandboxes sees it: those that it started itself."""

    def __init__(self, socket_path: Path, *, return_deadline_s: float = RETURN_DEADLINE_S) -> None:
        """One that has answered and went away is waited for as long as `return_deadline_s`."""
        self._socket = socket_path
        self._return_deadline_s = return_deadline_s
        self.owner_key = secrets.token_hex(32)
        """Kept in this process only: who has it can do with our sandboxes what we can."""
        self._has_answered = False

    async def capabilities(self) -> CapabilitiesReply:
        """Raises `SandboxRefused` when no launcher or no engine answers."""
        return await self._asked(CapabilitiesRequest(), CapabilitiesReply)

    async def start(self, request: StartRequest) -> Lease:
        """Start a sandbox. Cancelling it leaves nothing behind. A launcher that has answered before and went away is
        waited for.

        Raises:
            SandboxRefused, SandboxStartFailed: as the port says.
        """
        try:
            stream = await self._returned()
        except LauncherGone as exc:
            raise SandboxRefused(str(exc)) from exc
        try:
            reply = await _exchange(stream, request)
            if isinstance(reply, StartedReply):
                return Lease(self, request.sandbox_id, stream, reply.pid)
            raise _failure(reply)
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                stream.close()
                if not isinstance(exc, (SandboxRefused, SandboxStartFailed)):
                    await self.kill(request.sandbox_id)  # it may be starting
            if isinstance(exc, WireBroken):
                raise SandboxStartFailed(f"the launcher did not answer: {exc}") from exc
            raise

    async def kill(self, sandbox_id: str) -> None:
        """End it and wait until it is gone. Idempotent; a launcher that cannot is in the log, and a sandbox without
        its host ends by itself."""
        try:
            await self._asked(KillRequest(sandbox_id=sandbox_id, owner_key=self.owner_key), DoneReply)
        except (SandboxRefused, SandboxStartFailed) as exc:
            _log.error("sandbox_not_killed", sandbox_id=sandbox_id, reason=str(exc))

    async def reap(self, sandbox_id: str) -> None:
        """End what a dead owner left. Idempotent; what the launcher does not end now is in the log, and it ends it
        itself once it finds that the session directory is gone."""
        try:
            await self._asked(ReapRequest(sandbox_id=sandbox_id), DoneReply)
        except (SandboxRefused, SandboxStartFailed) as exc:
            _log.warning("sandbox_not_reaped", sandbox_id=sandbox_id, reason=str(exc))

    async def pause(self, sandbox_id: str) -> None:
        await self._asked(PauseRequest(sandbox_id=sandbox_id, owner_key=self.owner_key), DoneReply)

    async def unpause(self, sandbox_id: str) -> None:
        """Let it go on; no error if it does already. A launcher that went away, before or meanwhile, is waited for.

        Raises:
            SandboxRefused, SandboxStartFailed: it stays paused, or is gone.
        """
        request = UnpauseRequest(sandbox_id=sandbox_id, owner_key=self.owner_key)
        failure: Exception | None = None
        for _ in range(_UNPAUSE_ATTEMPTS):
            try:
                async with await self._returned() as stream:
                    reply = await _exchange(stream, request)
            except LauncherGone as exc:
                raise SandboxRefused(str(exc)) from exc
            except WireBroken as exc:
                failure = exc
                continue
            if isinstance(reply, DoneReply):
                return
            raise _failure(reply)
        raise SandboxStartFailed(f"the launcher did not answer: {failure}") from failure

    async def stats(self, sandbox_id: str) -> StatsReply:
        return await self._asked(StatsRequest(sandbox_id=sandbox_id, owner_key=self.owner_key), StatsReply)

    async def attached(self, sandbox_id: str) -> UnixStream | None:
        """The lease of a sandbox that runs already; None when that cannot be had in time."""
        with anyio.move_on_after(self._return_deadline_s):
            while True:
                try:
                    stream = await self._connected()
                except LauncherGone:
                    await anyio.sleep(_RETURN_PAUSE_S)
                    continue
                try:
                    reply = await _exchange(stream, AttachRequest(sandbox_id=sandbox_id, owner_key=self.owner_key))
                    if isinstance(reply, StartedReply):
                        return stream
                except WireBroken:
                    reply = None
                except BaseException:
                    stream.close()
                    raise
                stream.close()
                if isinstance(reply, RefusedReply) and reply.why == "unusable":
                    return None
                await anyio.sleep(_RETURN_PAUSE_S)
        return None

    async def _asked(self, request: BaseModel, expected: type[_R]) -> _R:
        try:
            stream = await self._connected()
            async with stream:
                reply = await _exchange(stream, request)
        except LauncherGone as exc:
            raise SandboxRefused(str(exc)) from exc
        except WireBroken as exc:
            raise SandboxStartFailed(f"the launcher did not answer: {exc}") from exc
        if isinstance(reply, expected):
            return reply
        raise _failure(reply)

    async def _returned(self) -> UnixStream:
        if self._has_answered:
            with anyio.move_on_after(self._return_deadline_s):
                while True:
                    try:
                        return await self._connected()
                    except LauncherGone:
                        await anyio.sleep(_RETURN_PAUSE_S)
        return await self._connected()

    async def _connected(self) -> UnixStream:
        try:
            with anyio.fail_after(CONNECT_DEADLINE_S), short_path(self._socket.parent, self._socket.name) as path:
                stream = await connect(path)
        except (OSError, TimeoutError) as exc:
            raise LauncherGone(
                f"no launcher answers at {self._socket} ({type(exc).__name__}): start one with "
                "`python -m service.sandboxes.launcher`, or unset RLM_LAUNCHER_SOCKET"
            ) from exc
        self._has_answered = True
        return stream

    def __repr__(self) -> str:
        return f"<Launcher at {self._socket}>"


async def _exchange(stream: UnixStream, request: BaseModel) -> BaseModel:
    """Raises `WireBroken`."""
    await send_message(stream, request, CONNECT_DEADLINE_S)
    line = await receive_line(stream, REPLY_DEADLINE_S)
    try:
        return REPLY.validate_json(line)
    except ValidationError as exc:
        raise WireBroken("an answer of another version: run service and launcher of the same release") from exc


def _failure(reply: BaseModel) -> SandboxRefused | SandboxStartFailed:
    if isinstance(reply, RefusedReply) and reply.why == "refused":
        return SandboxRefused(reply.message)
    if isinstance(reply, RefusedReply):
        return SandboxStartFailed(f"the launcher could not do it: {reply.message}")
    return SandboxStartFailed(f"the launcher answered with a {type(reply).__name__}")


@asynccontextmanager
async def open_launcher(
    *, socket_path: Path, sessions: Path, image: str, docker_host: str | None
) -> AsyncIterator[Launcher]:
    """A launcher as a child of this process, started anew if it dies; its sandboxes end with the block.

    Raises:
        SandboxStartFailed: it did not come up.
    """
    words = [sys.executable, "-P", "-m", "service.sandboxes.launcher", "--until-stdin-closes"]
    words += ["--socket", str(socket_path), "--sessions", str(sessions), "--image", image]
    words += ["--docker-host", docker_host] if docker_host else []
    await anyio.Path(sessions).mkdir(parents=True, exist_ok=True)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        child = _Child(words)
        try:
            await child.start(tasks)
            tasks.start_soon(child.keep, tasks)
            yield Launcher(socket_path)
        except Exception as exc:  # noqa: BLE001 - raised again below, not in the group of our own tasks
            failure = exc
        finally:
            await child.stop()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Child:
    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._process: anyio.abc.Process | None = None
        self._stopping = False
        self._said_all = anyio.Event()
        """Its log has come to an end."""
        self._last_line = ""
        """Of its log."""

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Until it says that it listens."""
        environment = {"PATH": os.defpath, "PYTHONPATH": _IMPORTED_FROM, "LANG": "C.UTF-8"}
        process = await anyio.open_process(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us; it goes when we are done with it
        )
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._said_all = anyio.Event()
        tasks.start_soon(self._forward, process.stderr, self._said_all)
        try:
            with anyio.fail_after(READY_DEADLINE_S):
                await process.stdout.receive()
        except (anyio.EndOfStream, TimeoutError) as exc:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                process.kill()
            with anyio.move_on_after(_LAST_LINES_S):
                await self._said_all.wait()
            await process.aclose()
            raise SandboxStartFailed(
                f"the launcher process did not come up: {self._last_line or 'it said nothing'}"
            ) from exc

    async def keep(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start it anew whenever it ends. Runs until cancelled."""
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if self._stopping:
                return
            with anyio.move_on_after(_LAST_LINES_S):
                await self._said_all.wait()
            await self._process.aclose()
            _log.warning("launcher_ended", exit_status=status)
            await anyio.sleep(_RETURN_PAUSE_S)
            try:
                await self.start(tasks)
            except SandboxStartFailed as exc:
                _log.error("launcher_not_started", reason=str(exc))
                await anyio.sleep(RETURN_DEADLINE_S)

    async def stop(self) -> None:
        """Close its stdin: it ends its sandboxes, then itself."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.move_on_after(_STOP_DEADLINE_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
            await process.aclose()

    async def _forward(self, stderr: anyio.abc.ByteReceiveStream, said_all: anyio.Event) -> None:
        """What the child logs, a line at a time, into our log."""
        lines = BufferedByteReceiveStream(stderr)
        while True:
            try:
                line = await lines.receive_until(b"\n", _LONGEST_LOG_LINE)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.ClosedResourceError):
                said_all.set()
                return
            self._last_line = line.decode(errors="replace").strip()
            _log.info("launcher_says", line=self._last_line)
