"""Takes the streams that one sandbox dials, and says whose they are.

Only the sandbox's own uid is heard, where it has one that we know; everybody else is hung up on without counting, so
that no other user of the machine can take the secret or wear out what the sandbox may get wrong. The first stream
receives the secret, before any cell has run; every later one must prove that it knows it, so that code in a cell cannot
pose as the supervisor. What is accepted waits on its lane until the link takes it. All of it
is bounded: lines, time, streams in their preface, streams waiting, and how often the sandbox may get it wrong.
"""

import contextlib
import errno
import hashlib
import hmac
import json
import os
import secrets
import socket
from collections import deque
from typing import Literal

import anyio
import structlog

from sandbox_image.protocol import (
    DIAL_PROOF_LABEL,
    MAX_PREFACE_BYTES,
    PROTOCOL_VERSION,
    SANDBOX_SOCKET,
)
from service.sandboxes.directory import SessionDirectory
from service.sandboxes.socket_path import short_path
from service.sandboxes.stream import UnixStream, accept

Lane = Literal["cells", "control"]

PREFACE_DEADLINE_S = 5.0
MAX_PREFACES = 4
"""At once."""
BACKLOG = 16
MAX_WAITING = 2
"""Streams that wait on one lane. The supervisor keeps one dialled; a second appears when it redials early."""
ACCEPT_PAUSE_S = 0.2
"""After a stream could not be accepted, for want of descriptors mostly: until some are closed."""
MAX_REFUSALS = 64
"""Streams refused or pushed out in a sandbox's life. A supervisor never comes near; beyond it, nothing is accepted."""

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})

_log = structlog.get_logger(__name__)


class PrefaceBroken(Exception):
    """The other side's preface is not what the protocol says. Never leaves this module."""


class Listener:
    """The host's end of one `sandbox.sock`. Opened before the sandbox is started; whoever opens it closes it."""

    def __init__(self, sandbox_id: str, listening: socket.socket) -> None:
        self._listening = listening
        self._serving = anyio.CancelScope()
        self._began = False
        self._log = _log.bind(sandbox_id=sandbox_id)
        self._secret: str | None = None
        self._in_preface: set[UnixStream] = set()
        self._refusals = 0
        self._strangers = 0
        self._waiting: dict[Lane, deque[UnixStream]] = {"cells": deque(), "control": deque()}
        self._arrived = anyio.Condition()
        self._closed = False

    async def serve(self, dialler_uid: int | None) -> None:
        """Accept until closed or cancelled, from that uid only, if one is given. Raises nothing: one listener's
        trouble is one sandbox's."""
        self._began = True
        try:
            with self._serving:
                async with anyio.create_task_group() as prefaces:
                    while (stream := await self._accept()) is not None:
                        if self._is_stranger(stream, dialler_uid):
                            stream.close()
                            continue
                        self._in_preface.add(stream)
                        prefaces.start_soon(self._admit, stream)
                    prefaces.cancel_scope.cancel()
        finally:
            await self.close()
            self._listening.close()
            for stream in self._in_preface:  # of a task that was cancelled before it began
                stream.close()

    async def _accept(self) -> UnixStream | None:
        """The next stream; None at the end. Where this process has no descriptor left, the sandbox waits for one."""
        has_waited = False
        while not self._closed:
            try:
                return await accept(self._listening)
            except OSError as exc:
                if exc.errno not in _PASSING:
                    self._log.warning("sandbox_listener_failed", reason=exc.strerror)
                    return None
                if not has_waited:
                    self._log.warning("sandbox_listener_waits", reason=exc.strerror)
            has_waited = True
            await anyio.sleep(ACCEPT_PAUSE_S)
        return None

    def _is_stranger(self, stream: UnixStream, dialler_uid: int | None) -> bool:
        if dialler_uid is None:
            return False
        uid: int | None
        try:
            uid = stream.peer()[1]
        except OSError:  # gone already; macOS does not tell then
            uid = None
        if uid == dialler_uid:
            return False
        if not self._strangers:
            self._log.warning("sandbox_stranger_refused", uid=uid, expected=dialler_uid)
        self._strangers += 1
        return True

    async def take(self, lane: Lane) -> UnixStream:
        """The next stream of a lane, waiting for it. Raises `anyio.ClosedResourceError` once closed."""
        async with self._arrived:
            while True:
                if self._closed:
                    raise anyio.ClosedResourceError
                if self._waiting[lane]:
                    return self._waiting[lane].popleft()
                await self._arrived.wait()

    async def close(self) -> None:
        """Accept nothing more and close every waiting stream. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # who dials from now on is refused, before `serve` has ended
        self._serving.cancel()
        if not self._began:
            self._listening.close()
        for streams in self._waiting.values():
            while streams:
                streams.popleft().close()
        with anyio.CancelScope(shield=True):
            async with self._arrived:
                self._arrived.notify_all()

    async def _admit(self, stream: UnixStream) -> None:
        """The preface of one stream. Runs in the listener's task group, one task a stream."""
        try:
            if self._closed or len(self._in_preface) > MAX_PREFACES or self._refusals >= MAX_REFUSALS:
                raise PrefaceBroken("too many streams")
            with anyio.fail_after(PREFACE_DEADLINE_S):
                lane = await self._preface(stream)
        except (PrefaceBroken, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as exc:
            self._in_preface.discard(stream)
            await self._refuse(stream, str(exc) or type(exc).__name__)
            return
        self._in_preface.discard(stream)
        await self._queue(lane, stream)

    async def _preface(self, stream: UnixStream) -> Lane:
        hello = _object(await _read_line(stream), "protocol", "lane")
        if hello["protocol"] != PROTOCOL_VERSION or isinstance(hello["protocol"], bool):
            raise PrefaceBroken(f"expected protocol {PROTOCOL_VERSION}")
        lane: Lane
        match hello["lane"]:
            case "cells":
                lane = "cells"
            case "control":
                lane = "control"
            case _:
                raise PrefaceBroken("unknown lane")
        if self._secret is None:
            self._secret = secrets.token_hex(32)
            await _write_line(stream, {"secret": self._secret})
            return lane
        nonce = secrets.token_hex(32)
        await _write_line(stream, {"nonce": nonce})
        proof = _object(await _read_line(stream), "proof")["proof"]
        expected = dial_proof(self._secret, nonce)
        if not isinstance(proof, str) or not hmac.compare_digest(proof.encode(), expected.encode()):
            raise PrefaceBroken("wrong proof")
        return lane

    async def _queue(self, lane: Lane, stream: UnixStream) -> None:
        waiting = self._waiting[lane]
        if self._closed:
            stream.close()
            return
        waiting.append(stream)
        if len(waiting) > MAX_WAITING:  # the supervisor redials when one closes, so the oldest is the dead one
            await self._refuse(waiting.popleft(), "pushed out by a newer stream")
        async with self._arrived:
            self._arrived.notify_all()

    async def _refuse(self, stream: UnixStream, reason: str) -> None:
        stream.close()
        if self._closed:
            return
        self._refusals += 1
        if self._refusals == 1:
            self._log.warning("sandbox_stream_refused", reason=reason, refusals=self._refusals)
        if self._refusals == MAX_REFUSALS:
            self._log.warning("sandbox_listener_closed", refusals=self._refusals)
            await self.close()

    def __repr__(self) -> str:
        counts = ", ".join(f"{lane}: {len(streams)} waiting" for lane, streams in self._waiting.items())
        closed = ", closed" if self._closed else ""
        return f"<Listener {counts}, {self._refusals} refused, {self._strangers} strangers{closed}>"


def open_listener(sandbox_id: str, directory: SessionDirectory) -> Listener:
    """Bind `sandbox.sock`. Who dials waits until it is served: by then it is known whose the sandbox is."""
    with short_path(directory.path, SANDBOX_SOCKET) as path:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.bind(path)
            os.chmod(path, 0o666)  # noqa: S103 - who dials is another uid; `serve` asks who it is
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    return Listener(sandbox_id, listening)


def dial_proof(secret: str, nonce: str) -> str:
    """What shows that a dialler knows the secret; both are the hex strings as they travelled."""
    return hmac.new(bytes.fromhex(secret), DIAL_PROOF_LABEL + bytes.fromhex(nonce), hashlib.sha256).hexdigest()


async def _read_line(stream: UnixStream) -> bytes:
    """One line, byte by byte beyond nothing: what follows it belongs to HTTP, and the peer waits for us anyway."""
    line = b""
    while not line.endswith(b"\n"):
        if len(line) >= MAX_PREFACE_BYTES:
            raise PrefaceBroken(f"preface longer than {MAX_PREFACE_BYTES} bytes")
        line += await stream.receive(MAX_PREFACE_BYTES - len(line))
        if b"\n" in line[:-1]:
            raise PrefaceBroken("spoke before it was spoken to")
    return line


async def _write_line(stream: UnixStream, message: dict[str, str]) -> None:
    await stream.send(json.dumps(message).encode() + b"\n")


def _object(line: bytes, *keys: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise PrefaceBroken("expected a line of JSON") from exc
    if not isinstance(found, dict) or set(found) != set(keys):
        raise PrefaceBroken(f"expected an object of {', '.join(keys)}")
    return found
