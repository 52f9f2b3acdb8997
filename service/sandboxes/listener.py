"""Takes the streams that one sandbox dials, and says whose they are.

The first stream receives the secret, before any cell has run; every later one must prove that it knows it, so that
code in a cell cannot pose as the supervisor. What is accepted waits on its lane until the link takes it. All of it
is bounded: lines, time, streams in their preface, streams waiting, and how often the sandbox may get it wrong.
"""

import hashlib
import hmac
import json
import secrets
from collections import deque
from typing import Literal

import anyio
import anyio.abc
import structlog

from sandbox_image.protocol import (
    DIAL_PROOF_LABEL,
    MAX_PREFACE_BYTES,
    PROTOCOL_VERSION,
    SANDBOX_SOCKET,
)
from service.sandboxes.directory import SessionDirectory, short_path

Lane = Literal["cells", "control"]

PREFACE_DEADLINE_S = 5.0
MAX_PREFACES = 4
MAX_WAITING = 2
"""Streams that wait on one lane. The supervisor keeps one dialled; a second appears when it redials early."""
MAX_REFUSALS = 64
"""Streams refused or pushed out in a sandbox's life. A supervisor never comes near; beyond it, nothing is accepted."""

_log = structlog.get_logger(__name__)


class PrefaceBroken(Exception):
    """The other side's preface is not what the protocol says. Never leaves this module."""


class Listener:
    """The host's end of one `sandbox.sock`. Opened before the sandbox is started; whoever opens it closes it."""

    def __init__(self, sandbox_id: str, listener: anyio.abc.SocketListener) -> None:
        self._listener = listener
        self._log = _log.bind(sandbox_id=sandbox_id)
        self._secret: str | None = None
        self._prefaces = 0
        self._refusals = 0
        self._waiting: dict[Lane, deque[anyio.abc.SocketStream]] = {"cells": deque(), "control": deque()}
        self._arrived = anyio.Condition()
        self._closed = False

    async def serve(self) -> None:
        """Accept until closed or cancelled."""
        try:
            async with anyio.create_task_group() as prefaces:
                while not self._closed:
                    try:
                        stream = await self._listener.accept()
                    except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError) as exc:
                        if not self._closed:
                            self._log.warning("sandbox_listener_failed", reason=str(exc))
                        break
                    prefaces.start_soon(self._admit, stream)
                prefaces.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self.close()

    async def take(self, lane: Lane) -> anyio.abc.SocketStream:
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
        await self._listener.aclose()
        for streams in self._waiting.values():
            while streams:
                await anyio.aclose_forcefully(streams.popleft())
        async with self._arrived:
            self._arrived.notify_all()

    async def _admit(self, stream: anyio.abc.SocketStream) -> None:
        """The preface of one stream. Runs in the listener's task group, one task a stream."""
        if self._closed or self._prefaces >= MAX_PREFACES or self._refusals >= MAX_REFUSALS:
            await self._refuse(stream, "too many streams")
            return
        self._prefaces += 1
        try:
            with anyio.fail_after(PREFACE_DEADLINE_S):
                lane = await self._preface(stream)
        except (PrefaceBroken, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError) as exc:
            await self._refuse(stream, str(exc) or type(exc).__name__)
            return
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        finally:
            self._prefaces -= 1
        await self._queue(lane, stream)

    async def _preface(self, stream: anyio.abc.SocketStream) -> Lane:
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

    async def _queue(self, lane: Lane, stream: anyio.abc.SocketStream) -> None:
        waiting = self._waiting[lane]
        if self._closed:
            await anyio.aclose_forcefully(stream)
            return
        waiting.append(stream)
        if len(waiting) > MAX_WAITING:  # the supervisor redials when one closes, so the oldest is the dead one
            await self._refuse(waiting.popleft(), "pushed out by a newer stream")
        async with self._arrived:
            self._arrived.notify_all()

    async def _refuse(self, stream: anyio.abc.SocketStream, reason: str) -> None:
        await anyio.aclose_forcefully(stream)
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
        return f"<Listener {counts}, {self._refusals} refused{', closed' if self._closed else ''}>"


async def open_listener(sandbox_id: str, directory: SessionDirectory) -> Listener:
    """Bind `sandbox.sock`. Anybody who can reach it may dial: the directory's place decides who can."""
    with short_path(directory.path, SANDBOX_SOCKET) as path:
        listener = await anyio.create_unix_listener(path, mode=0o666, backlog=16)
    return Listener(sandbox_id, listener)


def dial_proof(secret: str, nonce: str) -> str:
    """What shows that a dialler knows the secret; both are the hex strings as they travelled."""
    return hmac.new(bytes.fromhex(secret), DIAL_PROOF_LABEL + bytes.fromhex(nonce), hashlib.sha256).hexdigest()


async def _read_line(stream: anyio.abc.SocketStream) -> bytes:
    """One line, byte by byte beyond nothing: what follows it belongs to HTTP, and the peer waits for us anyway."""
    line = b""
    while not line.endswith(b"\n"):
        if len(line) >= MAX_PREFACE_BYTES:
            raise PrefaceBroken(f"preface longer than {MAX_PREFACE_BYTES} bytes")
        line += await stream.receive(MAX_PREFACE_BYTES - len(line))
        if b"\n" in line[:-1]:
            raise PrefaceBroken("spoke before it was spoken to")
    return line


async def _write_line(stream: anyio.abc.SocketStream, message: dict[str, str]) -> None:
    await stream.send(json.dumps(message).encode() + b"\n")


def _object(line: bytes, *keys: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise PrefaceBroken("expected a line of JSON") from exc
    if not isinstance(found, dict) or set(found) != set(keys):
        raise PrefaceBroken(f"expected an object of {', '.join(keys)}")
    return found
