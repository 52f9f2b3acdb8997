"""Requests to a sandbox's supervisor and its answers: JSON both ways or a stream, each within its time."""

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio

from sandbox_image.protocol import GENERATION_HEADER, MAX_CONTROL_BODY_BYTES
from service.errors import BadRequest
from service.sandboxes import replies
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.link import Answer, Exchange, Link
from service.sandboxes.listener import Lane
from service.sandboxes.patience import Patience
from service.sandboxes.port import Process, SandboxRefused, SandboxStartFailed
from service.sandboxes.refusals import Refused


class Exchanges:
    """All that is asked of one sandbox, which is woken for it where it is paused."""

    def __init__(self, link: Link, process: Process, patience: Patience) -> None:
        self._link = link
        self._process = process
        self._patience = patience
        self.generation: int | None = None
        """Said with each request, once the sandbox is claimed."""
        self._in_use = 0
        """Exchanges begun and not ended."""
        self._used_s = time.monotonic()
        """When the last of them ended."""
        self._is_paused = False
        self._one_pause = anyio.Lock()
        """What is begun while it is paused or unpaused waits for that."""

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def idle_s(self, now_s: float) -> float:
        """For how long nothing has been asked of it, on the clock of `time.monotonic`; 0 while something is."""
        return 0.0 if self._in_use else max(0.0, now_s - self._used_s)

    async def pause(self, is_running: Callable[[], bool]) -> None:
        """Stop the sandbox until something is asked of it, where its provider can and nothing is being asked. Never
        raises. Once begun it is waited for, also by a caller that is cancelled: what is known of it stays
        true."""
        async with self._one_pause:
            if not self._in_use and not self._is_paused and is_running():
                with anyio.CancelScope(shield=True):
                    self._is_paused = await self._process.pause()

    @asynccontextmanager
    async def _awake(self) -> AsyncIterator[None]:
        """Inside it is not paused. Raises `ProtocolBroken` where it cannot be woken."""
        self._in_use += 1
        try:
            async with self._one_pause:
                if self._is_paused:
                    try:
                        with anyio.CancelScope(shield=True):  # what is known of it stays true
                            await self._process.unpause()
                            self._is_paused = False
                    except (SandboxRefused, SandboxStartFailed) as exc:
                        raise ProtocolBroken("it could not be unpaused") from exc
            yield
        finally:
            self._in_use -= 1
            self._used_s = time.monotonic()

    def deadline_for(self, size_bytes: int) -> float:
        """Of a request that brings or takes so much."""
        return self._patience.fork_s + size_bytes / self._patience.slowest_bytes_per_s

    async def ask(
        self,
        method: str,
        target: str,
        message: Mapping[str, object] | None = None,
        *,
        lane: Lane = "control",
        deadline_s: float | None = None,
    ) -> bytes:
        """One exchange of JSON. Raises `Refused`, `ProtocolBroken`."""
        deadline_s = self._patience.control_s if deadline_s is None else deadline_s
        body = b"" if message is None else json.dumps(message).encode()
        if len(body) > MAX_CONTROL_BODY_BYTES:
            raise BadRequest(f"a request to a sandbox may have {MAX_CONTROL_BODY_BYTES} bytes, found {len(body)}")
        async with self.exchange(method, target, body=body, lane=lane, deadline_s=deadline_s) as answer:
            return await answer.read(MAX_CONTROL_BODY_BYTES)

    @asynccontextmanager
    async def exchange(
        self, method: str, target: str, *, deadline_s: float, body: bytes = b"", lane: Lane = "control"
    ) -> AsyncIterator[Answer]:
        """One whose answer is read as it comes. Raises `Refused`, `ProtocolBroken`."""
        headers = {} if self.generation is None else {GENERATION_HEADER: str(self.generation)}
        exchange = Exchange(lane=lane, method=method, target=target, deadline_s=deadline_s, body=body, headers=headers)
        async with self._awake(), self._link.exchange(exchange) as answer:
            if answer.status == 200:
                yield answer
            elif 400 <= answer.status < 600:
                error = await replies.read(replies.ERROR, await answer.read(MAX_CONTROL_BODY_BYTES))
                raise Refused(error.code, error.message)
            else:
                raise ProtocolBroken(f"an answer of status {answer.status}")

    def __repr__(self) -> str:
        return f"<Exchanges {'paused' if self._is_paused else self._in_use} {self._link!r}>"
