"""The connection: commands, scripts and wake-up hints against one Redis or Valkey server.

Rules that hold for every command:

- It is *shielded* from cancellation and bounded instead: each exchange by `COMMAND_TIMEOUT_S`, and by less once the
  replica is to end (`patience`); between the two that there may be, an embedded server that ended is started again,
  within deadlines of its own (`embedded`). A command takes well under a millisecond; cancelling one in flight would
  leave a write's outcome unknown, cost the connection, and (cancel scopes cancel again and again) could interrupt the
  client while it puts the connection back into its pool. Waiting for a free connection is not shielded.
- Only what is idempotent is retried, once, and only when the connection broke. A `write` never is.
- Replies are raw (`bytes`, `int`, `None`, lists of these): the client's per-command shapes differ between its
  versions and protocols, and each sibling reads its own few replies anyway.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import structlog
from redis.asyncio import ConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import BadRequest
from service.store.embedded import embedded_server
from service.store.errors import StoreFailed
from service.store.exchanges import Command as Command  # noqa: PLC0414  # callers know it from here
from service.store.exchanges import Exchanges, MakesExchanges, PutsBefore, nothing_before
from service.store.exchanges import Part as Part  # noqa: PLC0414  # callers know it from here
from service.store.exchanges import Reply as Reply  # noqa: PLC0414  # callers know it from here
from service.store.fences import NO_FENCE, Fence
from service.store.hints import CHANNEL, Hint, Hints
from service.store.patience import Patience
from service.store.scripts import Script, load_script
from service.store.translation import ScriptUnknown, place_of, translated

CONNECTIONS = 32
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
OLDEST_SERVER = (7, 0)
_NO_KEY = "rlm:probe"
"""Never there: writing nothing into it does not make it."""

Clock = Callable[[], Awaitable[float]]
"""`Store.now`, or what a test has for it."""

_LEAVE = load_script("service.store", "leave.lua", leaves_keys=True)

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_store(
    *, data_directory: Path, redis_url: str | None, over: PutsBefore = nothing_before
) -> AsyncIterator["Store"]:
    """The store for the time of the block: the server at `redis_url`, else the data directory's embedded one. Its
    requests go through what `over` puts before the exchanges.

    Raises:
        StoreFailed: no server could be reached or started, or it is older than `OLDEST_SERVER`.
        BadRequest: the URL cannot be used.
    """
    if redis_url is not None:
        pools = _pool_for_url(redis_url, CONNECTIONS), _pool_for_url(redis_url, 1)
        async with _connected(*pools, _nothing, place_of(redis_url), over) as store:
            yield store
    else:
        async with (
            embedded_server(data_directory / "store") as server,
            _connected(
                _pool_for_socket(server.address, CONNECTIONS),
                _pool_for_socket(server.address, 1),
                server.revive,
                "the embedded server",
                over,
            ) as store,
        ):
            yield store


async def _nothing() -> str:
    """A server at a URL is its operator's to revive."""
    return ""


def _options(connections: int) -> dict[str, Any]:
    return {
        "max_connections": connections,
        "socket_timeout": None,  # `Exchanges` has a deadline for each, and whoever listens waits without one
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _pool_for_url(url: str, connections: int) -> ConnectionPool:
    try:
        return ConnectionPool.from_url(url, **_options(connections))
    except ValueError:
        # Not chained and not quoted: the URL may hold a password.
        raise BadRequest(
            "RLM_REDIS_URL is not usable; expected redis://host:port/0, rediss://… or unix:///path/to/socket"
        ) from None


def _pool_for_socket(path: str, connections: int) -> ConnectionPool:
    return ConnectionPool(connection_class=UnixDomainSocketConnection, path=path, **_options(connections))


@asynccontextmanager
async def _connected(
    commands: ConnectionPool,
    listening: ConnectionPool,
    revive: Callable[[], Awaitable[str]],
    place: str,
    over: PutsBefore,
) -> AsyncIterator["Store"]:
    patience = Patience(COMMAND_TIMEOUT_S)
    exchanges = Exchanges(commands, patience)
    listener: Redis = Redis(connection_pool=listening)
    hints = Hints(listener)
    store = Store(over(exchanges), patience, hints, revive, place)
    failure: Exception | None = None
    try:
        await store.check_server()
        async with anyio.create_task_group() as group:
            group.start_soon(hints.run)
            try:
                yield store
            except Exception as error:  # noqa: BLE001  carried around the task group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(CONNECT_TIMEOUT_S, shield=True):
            await listener.aclose(close_connection_pool=True)
            await exchanges.close()
            await listening.disconnect()
    if failure is not None:
        raise failure


class Store:
    """Speaks to one server. Opened by `wiring` through `open_store`, shared by everything, safe under concurrency."""

    def __init__(
        self,
        exchanges: MakesExchanges,
        patience: Patience,
        hints: Hints,
        revive: Callable[[], Awaitable[str]],
        place: str,
    ) -> None:
        """`patience` is that of the exchanges; `place` says which server it is, to people."""
        self._place = place
        self._exchanges = exchanges
        self._hints = hints
        self._revive = revive
        self._patience = patience
        self._slots = anyio.Semaphore(CONNECTIONS, fast_acquire=True)
        self.server = "unknown"
        """Name and version, for people."""
        self.remarks: tuple[str, ...] = ()
        """Why it may forget what it keeps, and what to do about each."""

    def __repr__(self) -> str:
        return f"<Store {self.server} in_flight={CONNECTIONS - self._slots.value} {self._hints!r}>"

    async def now(self) -> float:
        """The server's own time (Unix seconds), whatever the clocks of replicas say: what decides about what belongs to
        others (a lease, a hold, how old something is) goes by it."""
        match await self.read("TIME"):
            case [bytes(seconds), bytes(microseconds)]:
                return int(seconds) + int(microseconds) / 1_000_000
            case reply:
                raise AssertionError(f"TIME replies two numbers, not {reply!r}")

    async def read(self, *command: Part) -> Reply:
        """Run a command that changes nothing. Retried once when the connection breaks."""
        return (await self._execute([command], is_idempotent=True))[0]

    async def read_many(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that change nothing, in one round trip; each reply stands where its command stood."""
        return await self._execute(commands, is_idempotent=True)

    async def write(self, *command: Part) -> Reply:
        """Run a command that changes something. Never retried: after `StoreFailed` its outcome is unknown."""
        return (await self._execute([command], is_idempotent=False))[0]

    async def write_many(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands all or nothing (MULTI/EXEC). Never retried: after `StoreFailed` their outcome is unknown."""
        replies = await self._execute([("MULTI",), *commands, ("EXEC",)], is_idempotent=False)
        executed = replies[-1]
        assert isinstance(executed, list)
        for reply in executed:
            if isinstance(reply, RedisError):
                raise translated(reply, self._place) from reply
        return executed

    async def leave(self, *commands: Command) -> list[Reply]:
        """Run commands that leave keys of one tenant behind, in one step. The second word of each is its key. One that
        the server refuses undoes none of those before it. Never retried: after `StoreFailed` their outcome is unknown.

        Raises:
            TenantErased: nothing was done.
        """
        keys = [str(command[1]) for command in commands]
        arguments = [part for command in commands for part in (len(command), *command)]
        replies = await self.run(_LEAVE, keys, arguments, is_idempotent=False)
        assert isinstance(replies, list)
        return replies

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Part],
        *,
        is_idempotent: bool,
        fence: Fence = NO_FENCE,
    ) -> Reply:
        """Run a script atomically; retried once when the connection breaks, if it is idempotent."""
        call = ScriptCall(script=script, keys=keys, arguments=arguments, fence=fence)
        return (await self._run([call], is_idempotent=is_idempotent))[0]

    async def run_many(self, calls: Sequence["ScriptCall"]) -> list[Reply]:
        """Run scripts that are idempotent in one round trip. Each is atomic, the whole is not."""
        return await self._run(calls, is_idempotent=True)

    async def _run(self, calls: Sequence["ScriptCall"], *, is_idempotent: bool) -> list[Reply]:
        commands = [call.command() for call in calls]
        try:
            return await self._execute(commands, is_idempotent=is_idempotent)
        except ScriptUnknown:
            bodies = {call.script.body for call in calls}
            await self._execute([("SCRIPT", "LOAD", body) for body in bodies], is_idempotent=True)
            return await self._execute(commands, is_idempotent=is_idempotent)

    async def hint(self, topic: str) -> None:
        """Wake up everyone, in any process, who waits for the topic."""
        await self._execute([("PUBLISH", CHANNEL, topic)], is_idempotent=True)

    def listen(self, topic: str) -> Hint:
        """A bell for the topic, to be entered *before* the truth is read."""
        return Hint(self._hints, topic)

    def wake_topic(self, topic: str) -> None:
        """Make those in this process who wait for the topic look again, though nothing has changed in the store."""
        self._hints.ring(topic)

    def wake_listeners(self) -> None:
        """Make everyone in this process who waits for a topic look again, though nothing has changed."""
        self._hints.ring_all()

    def end_after(self, seconds: float) -> None:
        """This replica is to end: from so many seconds on, a server that is silent holds nothing up for more than
        `patience.HURRIED_S`. Until then commands wait for it as ever, but not beyond."""
        self._patience.end_after(seconds)

    async def require_writes(self) -> None:
        """Have the server check that it takes writes, with one that leaves nothing behind.

        Raises:
            WritesRefused: it answers, and takes none.
            StoreFailed: it does not answer.
        """
        await self._execute([("SETRANGE", _NO_KEY, 0, "")], is_idempotent=True)

    async def check_server(self) -> None:
        """Refuse a server that is too old, and warn about one that may forget.

        Raises:
            StoreFailed: it cannot be reached or is older than `OLDEST_SERVER`.
        """
        reply = await self.read("INFO")
        assert isinstance(reply, bytes)
        facts = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
        name = facts.get("server_name", "redis")
        version = facts.get("valkey_version") or facts.get("redis_version", "0")
        self.server = f"{name} {version}"
        if tuple(int(number) for number in version.split(".")[:2] if number.isdigit()) < OLDEST_SERVER:
            raise StoreFailed(f"expected Redis or Valkey 7.0 or newer, found {self.server}; upgrade the server")
        remarks: list[str] = []
        if (policy := facts.get("maxmemory_policy", "noeviction")) != "noeviction":
            remarks.append(f"once it is full it drops what it keeps ({policy}): set maxmemory-policy noeviction")
        if facts.get("aof_enabled", "1") != "1":
            remarks.append("it has no append-only file, so a crash of it loses runs: set appendonly yes")
        for remark in remarks:
            _log.warning("store_may_forget", why=remark)
        self.remarks = tuple(remarks)

    async def _execute(self, commands: Sequence[Command], *, is_idempotent: bool) -> list[Reply]:
        with self._patience.for_turn() as waiting:
            await self._slots.acquire()
        if waiting.cancelled_caught:
            raise translated(RedisTimeoutError(), self._place)
        try:
            # What has been sent is waited for, whoever is cancelled meanwhile: see the rules above.
            with anyio.CancelScope(shield=True):
                return await self._attempt_twice(commands, is_idempotent=is_idempotent)
        finally:
            self._slots.release()
        raise AssertionError("a shielded scope does not swallow its body")

    async def _attempt_twice(self, commands: Sequence[Command], *, is_idempotent: bool) -> list[Reply]:
        last_words = ""
        try:
            try:
                return await self._attempt(commands)
            except RedisConnectionError as error:
                if isinstance(error, AuthenticationError | AuthorizationError):
                    raise
                last_words = await self._revive()
                if not is_idempotent:
                    raise
                return await self._attempt(commands)
        except (RedisError, OSError) as error:
            raise translated(error, self._place, last_words=last_words) from error

    async def _attempt(self, commands: Sequence[Command]) -> list[Reply]:
        replies = await self._exchanges.make(commands)
        good: list[Reply] = []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            good.append(reply)
        return good


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptCall:
    script: Script
    keys: Sequence[str]
    arguments: Sequence[Part]
    fence: Fence = NO_FENCE
    """For a fenced script: what it checks first."""

    def command(self) -> Command:
        keys, arguments = [*self.keys], [*self.arguments]
        if self.script.is_fenced:
            keys = [*(key for key, _ in self.fence.epochs), *keys]
            arguments = [len(self.fence.epochs), *(epoch for _, epoch in self.fence.epochs), *arguments]
        return ("EVALSHA", self.script.sha1, len(keys), *keys, *arguments)
