"""The Docker engine, as far as the launcher needs it. The only module that imports the Docker SDK.

The SDK blocks, so every call runs in a thread, a bounded number at once. A call that was begun is always waited for:
its own timeout ends it, and a container that was created is known.
"""

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_thread
import docker
import docker.errors
import requests
import structlog
import urllib3

from service.sandboxes.docker_image import LABEL_PROTOCOL, LABEL_SOURCES
from service.sandboxes.docker_profile import LABEL_DEADLINE, LABEL_OWNER, LABEL_SANDBOX, LABEL_SESSIONS, LABEL_UID
from service.sandboxes.launcher.engine_faults import EngineFault, described, fault_of_answer, fault_of_silence
from service.sandboxes.launcher.reconciling import FoundContainer
from service.sandboxes.launcher.usage import Usage

CALL_DEADLINE_S = 60
"""Of what changes something."""
QUESTION_DEADLINE_S = 10
"""Of what does not: after that the engine is called silent."""
CONVERSATION_S = 5.0
"""An engine that has answered within this time is there. One that has not is asked, before it is given long work."""
MOST_CAUSES = 16
CALLS_AT_ONCE = 8
EVENTS_PAUSE_S = 1.0
"""Before a broken stream of events is opened again."""

_CONFLICT = 409

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class EngineFailed(Exception):
    """What the engine answered instead, if anything. `reason` is one line for people."""

    def __init__(self, fault: EngineFault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An image that the engine has, by its labels (`docker_image`)."""

    protocol: str
    sources: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    version: str
    runtimes: tuple[str, ...]
    seccomp: bool
    own_uids: bool
    """Whether uids in containers are those of the machine (no user namespace around them all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A container's first process has ended."""

    container_id: str
    exit_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clients:
    """The SDK's, which has one deadline a client."""

    asking: docker.APIClient
    working: docker.APIClient


class Engine:
    """One engine. `host` is a URL such as `unix:///var/run/docker.sock`; None for the machine's usual one. It is silent
    when a question has no answer after `question_deadline_s`."""

    def __init__(self, host: str | None, *, question_deadline_s: float = QUESTION_DEADLINE_S) -> None:
        self._host = host or "unix:///var/run/docker.sock"
        self._question_deadline_s = question_deadline_s
        self._found: _Clients | None = None
        self._answered_s = -CONVERSATION_S
        self._one_client = threading.Lock()
        """The first calls may come from several threads; one of them makes the client."""
        self._calls = anyio.CapacityLimiter(CALLS_AT_ONCE)

    async def facts(self) -> EngineFacts:
        def ask(client: docker.APIClient) -> EngineFacts:
            found: Mapping[str, Any] = client.info()
            options = [str(option) for option in found.get("SecurityOptions") or ()]
            names = {part for option in options for part in option.split(",") if part.startswith("name=")}
            return EngineFacts(
                version=str(found.get("ServerVersion", "unknown")),
                runtimes=tuple(sorted(found.get("Runtimes") or ())),
                seccomp="name=seccomp" in names,
                own_uids=not names & {"name=userns", "name=rootless"},
            )

        return await self._ask(ask)

    async def image(self, name: str) -> FoundImage | None:
        """None where the engine has none of this name."""

        def look(client: docker.APIClient) -> FoundImage:
            found: Mapping[str, Any] = client.inspect_image(name)  # type: ignore[no-untyped-call]
            labels: Mapping[str, str] = (found.get("Config") or {}).get("Labels") or {}
            return FoundImage(protocol=labels.get(LABEL_PROTOCOL, "")[:40], sources=labels.get(LABEL_SOURCES, "")[:80])

        try:
            return await self._ask(look)
        except EngineFailed as exc:
            if exc.fault in (EngineFault.MISSING, EngineFault.IMAGE_MISSING):
                return None
            raise

    async def create(self, name: str, profile: Mapping[str, Any]) -> str:
        """The id of the new container."""

        def create(client: docker.APIClient) -> str:
            return str(client.create_container_from_config(profile, name)["Id"])  # type: ignore[no-untyped-call]

        return await self._call(create)

    async def start(self, container_id: str) -> int:
        """The pid of its first process, as this machine counts; 0 if it ended at once."""

        def start(client: docker.APIClient) -> int:
            client.start(container_id)
            return int(client.inspect_container(container_id)["State"]["Pid"])

        return await self._call(start)

    async def pid(self, container_id: str) -> int:
        """Of the first process of a container that runs."""
        return await self._call(lambda client: int(client.inspect_container(container_id)["State"]["Pid"]))

    async def remove(self, container_id: str) -> None:
        """End it and take it away, and wait until that is done; no error if it is gone."""

        def remove(client: docker.APIClient) -> None:
            if client.inspect_container(container_id)["State"].get("Paused"):
                # Killed while it is paused, gVisor's process can stay as a zombie of its paused parent: the engine then
                # waits ten seconds and gives up.
                with suppress(docker.errors.APIError):
                    client.unpause(container_id)
            try:
                client.remove_container(container_id, force=True, v=True)
            except docker.errors.APIError as exc:
                if exc.status_code != _CONFLICT:
                    raise
                client.wait(container_id, timeout=CALL_DEADLINE_S, condition="removed")  # somebody is at it

        try:
            await self._call(remove)
        except EngineFailed as exc:
            if exc.fault is not EngineFault.MISSING:
                raise

    async def pause(self, container_id: str) -> None:
        await self._call(lambda client: client.pause(container_id))

    async def unpause(self, container_id: str) -> None:
        """No error if it runs already."""

        def unpause(client: docker.APIClient) -> None:
            try:
                client.unpause(container_id)
            except docker.errors.APIError:
                state = client.inspect_container(container_id)["State"]
                if state.get("Paused") or not state.get("Running"):
                    raise

        await self._call(unpause)

    async def usage(self, container_id: str) -> Usage:
        """The same container is answered for once a second (Docker 20.10): `cgroups` is asked first."""

        def measure(client: docker.APIClient) -> Usage:
            found: Mapping[str, Any] = client.stats(container_id, stream=False, one_shot=True)
            memory = found.get("memory_stats", {})
            memory_bytes = int(memory.get("usage", 0))
            return Usage(
                memory_bytes=memory_bytes,
                memory_peak_bytes=max(memory_bytes, int(memory.get("max_usage", 0))),
                cpu_s=int(found.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0)) / 1e9,
                processes=int(found.get("pids_stats", {}).get("current", 0)),
            )

        return await self._ask(measure)

    async def found(self, sessions: str) -> list[FoundContainer]:
        """All containers that belong to a directory of sessions, ended ones too."""

        def find(client: docker.APIClient) -> list[FoundContainer]:
            labels = [f"{LABEL_SESSIONS}={sessions}"]
            listed = client.containers(all=True, filters={"label": labels})
            return [_found(entry) for entry in listed]

        return await self._ask(find)

    @asynccontextmanager
    async def endings(self, sessions: str) -> AsyncIterator["Endings"]:
        """What ends from now on. Opened before the first container is started, so that no ending is missed."""
        endings = Endings(self, sessions)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(endings.watch)
            try:
                yield endings
            finally:
                endings.close()

    async def _ask(self, question: Callable[[docker.APIClient], _T]) -> _T:
        """What changes nothing, and is answered at once or not at all."""
        return await self._in_thread(lambda: question(self._clients().asking))

    async def _call(self, call: Callable[[docker.APIClient], _T]) -> _T:
        """What may take its time, of an engine that is there."""

        def run() -> _T:
            clients = self._clients()
            if time.monotonic() - self._answered_s > CONVERSATION_S:
                clients.asking.ping()
            return call(clients.working)

        return await self._in_thread(run)

    async def _in_thread(self, run: Callable[[], _T]) -> _T:
        def translated() -> _T:
            with self.translated():
                answer = run()
                self._answered_s = time.monotonic()
                return answer

        return await anyio.to_thread.run_sync(translated, limiter=self._calls)

    def events(self, filters: dict[str, Any]) -> Any:
        """The engine's events from now on, without a deadline. Call it from a thread only."""
        clients = self._clients()
        clients.asking.ping()  # one that is silent already would hold the thread for ever
        return clients.working.events(decode=True, filters=filters)

    def _clients(self) -> "_Clients":
        """Made at first need: an engine that comes up later is found later. Call it from a thread only."""
        with self._one_client:
            if self._found is None:
                _reach(self._host, self._question_deadline_s)
                asking = docker.APIClient(
                    base_url=self._host,
                    version="auto",
                    timeout=self._question_deadline_s,  # type: ignore[arg-type]  # parts of a second are fine with it
                )
                version = asking.api_version
                working = docker.APIClient(base_url=self._host, version=version, timeout=CALL_DEADLINE_S)
                self._found = _Clients(asking=asking, working=working)
            return self._found

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Inside, whatever the SDK raises becomes `EngineFailed`."""
        try:
            yield
        except docker.errors.APIError as exc:
            words = _explanation(exc)
            fault = fault_of_answer(exc.status_code or 0, words)
            raise EngineFailed(fault, described(fault, host=self._host, said=words)) from exc
        except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            fault = fault_of_silence(_causes(exc))
            raise EngineFailed(fault, described(fault, host=self._host)) from exc

    def __repr__(self) -> str:
        return f"<Engine {self._host}: {self._calls.borrowed_tokens:g} of {CALLS_AT_ONCE} calls at work>"


class Endings:
    """The engine's events, as far as they say that a container of ours has ended. One thread reads them."""

    def __init__(self, engine: Engine, sessions: str) -> None:
        self._engine = engine
        self._sessions = sessions
        self._stream: Any = None
        self._closed = False
        self._broken = False
        self._send, self._receive = anyio.create_memory_object_stream[Ending | None](1024)

    async def watch(self) -> None:
        """Until closed. Events that break are opened again."""
        try:
            while not self._closed:
                await anyio.to_thread.run_sync(self._read)
                if not self._closed:
                    await anyio.sleep(EVENTS_PAUSE_S)
        finally:
            self._send.close()

    async def next(self) -> Ending | None:
        """None at each opening of the events, also the first. Raises `anyio.EndOfStream` once closed."""
        return await self._receive.receive()

    def close(self) -> None:
        """Lets the reading thread come to its end."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()

    def _read(self) -> None:
        filters = {"type": "container", "event": "die", "label": f"{LABEL_SESSIONS}={self._sessions}"}
        try:
            with self._engine.translated():
                self._stream = self._engine.events(filters)
                if self._closed:
                    return
                self._broken = False
                anyio.from_thread.run(self._send.send, None)  # before an opening something may have ended unseen
                for event in self._stream:
                    status = str(event.get("Actor", {}).get("Attributes", {}).get("exitCode", ""))
                    ending = Ending(
                        container_id=str(event.get("id", "")), exit_status=int(status) if status.isdigit() else 255
                    )
                    anyio.from_thread.run(self._send.send, ending)
        except EngineFailed as exc:
            if not self._closed and not self._broken:
                _log.warning("docker_events_broke", reason=exc.reason)
            self._broken = True
        except anyio.BrokenResourceError:
            return


def _found(entry: Mapping[str, Any]) -> FoundContainer:
    labels: Mapping[str, str] = entry.get("Labels") or {}
    return FoundContainer(
        container_id=str(entry["Id"]),
        sandbox_id=labels.get(LABEL_SANDBOX, ""),
        uid=_number(labels.get(LABEL_UID, "")),
        owner=labels.get(LABEL_OWNER, ""),
        runs=entry.get("State") in ("running", "paused", "created", "restarting"),
        deadline_s=_number(labels.get(LABEL_DEADLINE, "")) or 0,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _reach(host: str, deadline_s: float) -> None:
    """Raises `OSError` where nothing lets us in at a unix socket. The SDK would say so as well, less clearly, and
    leave a socket open for it."""
    path = host.removeprefix("unix://")
    if path != host:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(deadline_s)
            connection.connect(path)


def _causes(exc: BaseException) -> tuple[BaseException, ...]:
    """It and what it came of, as far as that goes back; a time-out of the SDK's client as the system's would be."""
    found: list[BaseException] = []
    each: BaseException | None = exc
    while each is not None and len(found) < MOST_CAUSES:
        # To urllib3 a connection that was refused at once is a time-out too.
        is_late = isinstance(each, requests.Timeout | urllib3.exceptions.TimeoutError)
        is_late = is_late and not isinstance(each, urllib3.exceptions.NewConnectionError)
        found.append(TimeoutError() if is_late else each)
        # The SDK and requests wrap what was raised in an argument as often as in the chain.
        inner = next((argument for argument in each.args if isinstance(argument, BaseException)), None)
        each = each.__cause__ or inner or each.__context__
    return tuple(found)


def _explanation(exc: docker.errors.APIError) -> str:
    return " ".join(str(exc.explanation or exc).split())[:500]
