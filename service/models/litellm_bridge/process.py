"""The LiteLLM process as the service sees it: started when first needed, talked to, started again when it dies.

What arrives is dispatched by asyncio's callbacks, so there is no task to own. A process that dies fails the calls in
flight, which may be billed; the next call starts another, but not before a pause that doubles with each death in a
row. A process that keeps silent beyond a call's deadline hangs, and is killed.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import structlog

from service.loop.values import CallOutcome
from service.models.litellm_bridge.frames import ENVIRONMENT, BrokenFrame, Decoder, encode
from service.models.port import ModelCallFailed

START_S = 60.0
"""For the import, which takes two seconds on a good day and ten on a busy machine."""
GRACE_S = 10.0
"""After a call's deadline, until the process counts as hung: it keeps deadlines itself."""
STOP_S = 3.0
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0

PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
CLOUD_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "VERTEXAI_", "VERTEX_", "WATSONX_", "OCI_", "DATABRICKS_", "SNOWFLAKE_")
"""Providers whose credentials are more than one key; LiteLLM reads them from the environment itself."""

log = structlog.get_logger(__name__)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the service's environment the process sees: no keys but those of clouds."""
    passed = {
        name: value for name, value in environment.items() if name in PASSED_ON or name.startswith(CLOUD_PREFIXES)
    }
    return passed | ENVIRONMENT


class LiteLLMProcess:
    """Shared by all adapters that call through LiteLLM. Opened by the first call, closed by `aclose`."""

    def __init__(self, environment: Mapping[str, str], *, grace_s: float = GRACE_S) -> None:
        self._environment = worker_environment(environment)
        self._grace_s = grace_s
        self._opening = anyio.Lock()
        """At most one process is being started."""
        self._link: _Link | None = None
        self._process: anyio.abc.Process | None = None
        self._deaths = 0
        self._not_before = 0.0
        self._next_id = 1
        self._closed = False

    def __repr__(self) -> str:
        process = f"pid {self._process.pid}" if self._process is not None else "not running"
        return f"<LiteLLMProcess {process}, {self._deaths} deaths in a row{' closed' if self._closed else ''}>"

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self._process is None else self._process.pid

    async def started(self) -> str:
        """Start it if it is not running; the version of LiteLLM.

        Raises:
            ModelCallFailed: it cannot be started, or only later; nothing was sent.
        """
        return (await self._open_link()).version

    async def call(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send one call and wait for what comes back. Starting the process is not part of its deadline.

        Raises:
            ModelCallFailed: the process died, hangs or cannot be started.
        """
        link = await self._open_link()
        self._next_id += 1
        call = self._next_id
        answer = link.ask(call, frame)
        try:
            with anyio.move_on_after(frame["timeout_s"] + self._grace_s):
                reply = await answer.wait()
                if reply is None:
                    raise ModelCallFailed(CallOutcome.UNAVAILABLE, "the LiteLLM process died during the call")
                self._deaths = 0
                return reply
        finally:
            link.forget(call)
        log.warning("litellm_process_hangs", pid=self.pid)
        self._kill(link)
        raise ModelCallFailed(CallOutcome.TIMED_OUT, "the LiteLLM process hangs and was ended")

    async def aclose(self) -> None:
        """End the process. A call after it fails at once."""
        self._closed = True
        await self._end()

    async def _open_link(self) -> "_Link":
        async with self._opening:
            if self._closed:
                raise ModelCallFailed(CallOutcome.UNAVAILABLE, "LiteLLM is closed", may_be_billed=False)
            if self._link is not None and not self._link.is_closed:
                return self._link
            if self._link is not None:
                self._note_death("died")
                await self._end()
            wait_s = self._not_before - time.monotonic()
            if wait_s > 0:
                problem = "the LiteLLM process has died and is started again soon"
                raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem, retry_after_s=wait_s, may_be_billed=False)
            self._link = await self._start()
            return self._link

    async def _start(self) -> "_Link":
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "service.models.litellm_bridge.worker", str(theirs.fileno())]
        try:
            with theirs:
                self._process = await anyio.open_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=self._environment,
                    # Ctrl-C is for the service, which ends its calls in an orderly way.
                    start_new_session=True,
                )
            _, link = await asyncio.get_running_loop().create_connection(_Link, sock=ours)
        except OSError as exc:
            ours.close()
            problem = f"the LiteLLM process cannot be started ({os.strerror(exc.errno or 0)})"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem, may_be_billed=False) from exc
        try:
            with anyio.move_on_after(START_S):
                await link.settled.wait()
        except BaseException:
            link.close()
            await self._end()
            raise
        if not link.version:
            self._note_death(link.problem or "did not start")
            await self._end()
            problem = f"the LiteLLM process did not start: {link.problem or 'it ended without a word'}"
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, problem, may_be_billed=False)
        return link

    def _note_death(self, how: str) -> None:
        pause_s = min(FIRST_PAUSE_S * 2**self._deaths, MAX_PAUSE_S)
        self._deaths += 1
        self._not_before = time.monotonic() + pause_s
        log.warning("litellm_process_ended", how=how, deaths=self._deaths, pause_s=pause_s)

    def _kill(self, link: "_Link") -> None:
        """What hangs hears nothing. The next call notes its death and starts another."""
        if self._link is link and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
        link.close()

    async def _end(self) -> None:
        """Close our end, which ends it; kill it if that does not. Shielded: nobody else would wait for it."""
        link, process = self._link, self._process
        self._link = self._process = None
        if link is not None:
            link.close()
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(STOP_S):
                await process.wait()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


class _Answer:
    """What one call is waiting for."""

    def __init__(self) -> None:
        self._came = anyio.Event()
        self._frame: dict[str, Any] | None = None

    async def wait(self) -> dict[str, Any] | None:
        """The reply, or None when none will come."""
        await self._came.wait()
        return self._frame

    def set(self, frame: dict[str, Any] | None) -> None:
        self._frame = frame
        self._came.set()


class _Link(asyncio.Protocol):
    """Our end of the socket pair."""

    def __init__(self) -> None:
        self.is_closed = False
        self.version = ""
        self.problem = ""
        self.settled = anyio.Event()
        """Set once it is ready or broken."""
        self._decoder = Decoder()
        self._answers: dict[int, _Answer] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except BrokenFrame as exc:
            log.warning("litellm_process_speaks_nonsense", error=str(exc))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def ask(self, call: int, frame: dict[str, Any]) -> _Answer:
        """Send a call.

        Raises:
            ModelCallFailed: it is too large to send.
        """
        try:
            data = encode({"id": call, **frame})
        except BrokenFrame as exc:
            problem = "the prompt is larger than LiteLLM can be given"
            raise ModelCallFailed(CallOutcome.TOO_LONG, problem, may_be_billed=False) from exc
        answer = self._answers[call] = _Answer()
        if self.is_closed or self._transport is None:
            answer.set(None)
        else:
            self._transport.write(data)
        return answer

    def forget(self, call: int) -> None:
        """Nobody waits for this call any more; when it is still under way it is cancelled."""
        answer = self._answers.pop(call, None)
        if answer is not None and not self.is_closed and self._transport is not None:
            self._transport.write(encode({"cancel": call}))

    def close(self) -> None:
        """No reply will come any more."""
        self.is_closed = True
        self.settled.set()
        if self._transport is not None:
            self._transport.abort()
        while self._answers:
            _, answer = self._answers.popitem()
            answer.set(None)

    def _take(self, frame: dict[str, Any]) -> None:
        if "ready" in frame or "broken" in frame:
            self.version, self.problem = str(frame.get("ready", "")), str(frame.get("broken", ""))
            self.settled.set()
            return
        answer = self._answers.pop(frame["id"], None) if isinstance(frame.get("id"), int) else None
        if answer is not None:
            answer.set(frame)
