"""The Docker engine, as far as the launcher needs it. The only module that imports the Docker SDK.

The SDK blocks, so every call runs in a thread, a bounded number at once. A call that was begun is always waited for:
its own timeout ends it, and a container that was created is known.
"""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_thread
import docker
import docker.errors
import requests
import structlog
import urllib3

from service.sandboxes.docker_profile import LABEL_DEADLINE, LABEL_OWNER, LABEL_SANDBOX, LABEL_SESSIONS, LABEL_UID
from service.sandboxes.launcher.reconciling import FoundContainer

CALL_DEADLINE_S = 60.0
CALLS_AT_ONCE = 8
EVENTS_PAUSE_S = 1.0
"""Before a broken stream of events is opened again."""

_CONFLICT = 409

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class EngineFailed(Exception):
    """What the engine answered instead. `reason` is one line for people."""

    def __init__(self, kind: Literal["missing", "unreachable", "failed"], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    version: str
    runtimes: tuple[str, ...]
    seccomp: bool
    own_uids: bool
    """Whether uids in containers are those of the machine (no user namespace around them all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    memory_bytes: int
    cpu_s: float
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A container's first process has ended."""

    container_id: str
    exit_status: int


class Engine:
    """One engine. `host` is a URL such as `unix:///var/run/docker.sock`; None for the machine's usual one."""

    def __init__(self, host: str | None) -> None:
        self._host = host or "unix:///var/run/docker.sock"
        self._client: docker.APIClient | None = None
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

        return await self._call(ask)

    async def has_image(self, name: str) -> bool:
        try:
            await self._call(lambda client: client.inspect_image(name))  # type: ignore[no-untyped-call]
        except EngineFailed as exc:
            if exc.kind == "missing":
                return False
            raise
        return True

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
            try:
                client.remove_container(container_id, force=True, v=True)
            except docker.errors.APIError as exc:
                if exc.status_code != _CONFLICT:
                    raise
                client.wait(container_id, timeout=int(CALL_DEADLINE_S), condition="removed")  # somebody is at it

        try:
            await self._call(remove)
        except EngineFailed as exc:
            if exc.kind != "missing":
                raise

    async def pause(self, container_id: str) -> None:
        await self._call(lambda client: client.pause(container_id))

    async def unpause(self, container_id: str) -> None:
        await self._call(lambda client: client.unpause(container_id))

    async def usage(self, container_id: str) -> Usage:
        def measure(client: docker.APIClient) -> Usage:
            found: Mapping[str, Any] = client.stats(container_id, stream=False, one_shot=True)
            return Usage(
                memory_bytes=int(found.get("memory_stats", {}).get("usage", 0)),
                cpu_s=int(found.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0)) / 1e9,
                processes=int(found.get("pids_stats", {}).get("current", 0)),
            )

        return await self._call(measure)

    async def found(self, sessions: str) -> list[FoundContainer]:
        """All containers that belong to a directory of sessions, ended ones too."""

        def find(client: docker.APIClient) -> list[FoundContainer]:
            labels = [f"{LABEL_SESSIONS}={sessions}"]
            listed = client.containers(all=True, filters={"label": labels})
            return [_found(entry) for entry in listed]

        return await self._call(find)

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

    async def _call(self, call: Callable[[docker.APIClient], _T]) -> _T:
        def run() -> _T:
            with _translated():
                return call(self.client())

        return await anyio.to_thread.run_sync(run, limiter=self._calls)

    def client(self) -> docker.APIClient:
        """Made at first need: an engine that comes up later is found later. Call it from a thread only."""
        with self._one_client:
            if self._client is None:
                self._client = docker.APIClient(base_url=self._host, version="auto", timeout=int(CALL_DEADLINE_S))
            return self._client

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
            with _translated():
                self._stream = self._engine.client().events(decode=True, filters=filters)
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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except docker.errors.NotFound as exc:
        raise EngineFailed("missing", _explanation(exc)) from exc
    except docker.errors.APIError as exc:
        raise EngineFailed("failed", _explanation(exc)) from exc
    except (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
        raise EngineFailed("unreachable", f"the Docker engine cannot be reached ({type(exc).__name__})") from exc


def _explanation(exc: docker.errors.APIError) -> str:
    return " ".join(str(exc.explanation or exc).split())[:500]
