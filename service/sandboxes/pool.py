"""The warm pool: keeps sandboxes started ahead of need, so that a run does not wait for one.

`plan` is a pure function that says what to start and what to kill; the pool does it. A sandbox leaves the pool for
good when it is acquired and is killed when it is released: one that a tenant touched is never given out again.

Warm, starting and acquired sandboxes together are never more than the slots there are. Who may acquire is decided by
`slots`, before.
"""

import math
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import structlog

from service.errors import RlmServiceError
from service.ids import SandboxId
from service.sandboxes.opening import open_sandbox
from service.sandboxes.port import NoSandboxSlot, Provider, SandboxStartFailed, Template
from service.sandboxes.sandbox import Sandbox

STARTS_AT_ONCE = 2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
LULL_S = 0.1
"""After a sandbox was given out, before the next is started to be kept warm: starting one takes a core for about as
long, and whoever has just got one needs it for the claim and the first cell."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """All that `plan` looks at."""

    slots: int
    warm_wanted: int
    acquired: int
    """Given out, or being started for somebody who waits."""
    starting: int
    """Being started to be kept warm, and promised to nobody who waits."""
    warm: tuple[tuple[SandboxId, bool], ...]
    """Oldest first, each with whether it still runs."""
    pausing: bool
    """After a failed start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    start: int
    kill: tuple[SandboxId, ...]


def plan(state: PoolState) -> Plan:
    """What to start and what to kill now: the dead, then the oldest of those there are no slots for."""
    dead = tuple(sandbox_id for sandbox_id, runs in state.warm if not runs)
    live = tuple(sandbox_id for sandbox_id, runs in state.warm if runs)
    room = max(0, min(state.warm_wanted, state.slots - state.acquired))
    surplus = max(0, len(live) + state.starting - room)
    missing = 0 if dead or state.pausing else room - len(live) - state.starting
    return Plan(start=max(0, min(missing, STARTS_AT_ONCE - state.starting)), kill=dead + live[:surplus])


def pause_after(failures: int) -> float:
    """How long no warm sandbox is started after so many failures in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * (1 << min(failures - 1, 16)))


@dataclass(slots=True, eq=False)
class _Promise:
    """Somebody waits for a start that is under way anyway."""

    resolved: anyio.Event = field(default_factory=anyio.Event)
    sandbox: Sandbox | None = None


class Pool:
    """Opened by `open_pool`."""

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        provider: Provider,
        *,
        sessions: Path,
        gateway_socket: Path | None,
        slots: int,
        warm: int,
        template: Template,
    ) -> None:
        self._tasks = tasks
        self._provider = provider
        self._sessions = sessions
        self._gateway_socket = gateway_socket
        self._slots = slots
        self._warm_wanted = warm
        self._template = template
        self._warm: dict[SandboxId, Sandbox] = {}
        self._acquired: dict[SandboxId, Sandbox] = {}
        self._starting_for_callers = 0
        self._starting = 0
        self._promises: deque[_Promise] = deque()
        self._failures = 0
        self._pauses = 0
        self._closed = False
        self._given_at = -math.inf
        self._hurry = anyio.Event()
        """Set, and replaced, when somebody begins to wait for a start that is under way."""
        self._changed = anyio.Event()

    @property
    def state(self) -> PoolState:
        return PoolState(
            slots=self._slots,
            warm_wanted=0 if self._closed else self._warm_wanted,
            acquired=len(self._acquired) + self._starting_for_callers,
            starting=self._starting - len(self._promises),
            warm=tuple((sandbox_id, sandbox.is_running) for sandbox_id, sandbox in self._warm.items()),
            pausing=self._pauses > 0,
        )

    @property
    def given_out(self) -> tuple[Sandbox, ...]:
        """Those that were acquired and not given back yet."""
        return tuple(self._acquired.values())

    @property
    def warm(self) -> tuple[Sandbox, ...]:
        """Those that wait to be acquired, oldest first; some may have ended."""
        return tuple(self._warm.values())

    async def acquire(self, template: Template | None = None, *, hash_seed: int | None = None) -> Sandbox:
        """A sandbox that is up and unclaimed: a warm one of this template, else one started now. Give it back with
        `release`. A hash seed is asked for to rebuild a namespace; nothing warm has it.

        Raises:
            NoSandboxSlot: as many as there are slots are given out already.
            SandboxRefused, SandboxStartFailed: none could be started.
        """
        wanted = template or self._template
        state = self.state
        if self._closed or state.acquired >= state.slots:
            raise NoSandboxSlot(
                f"all {state.slots} sandbox slots are taken: wait for a slot first, or raise RLM_SANDBOX_SLOTS"
            )
        self._starting_for_callers += 1
        try:
            sandbox = await self._warm_one(wanted) if hash_seed is None else None
            if sandbox is None:
                await self._make_room()
                sandbox = await self._open(wanted, secrets.randbits(32) if hash_seed is None else hash_seed)
            self._acquired[sandbox.sandbox_id] = sandbox
            self._given_at = anyio.current_time()
            return sandbox
        finally:
            self._starting_for_callers -= 1
            self._nudge()

    async def release(self, sandbox: Sandbox) -> None:
        """Kill an acquired sandbox and free its place. Idempotent."""
        with anyio.CancelScope(shield=True):
            await sandbox.kill()
            self._acquired.pop(sandbox.sandbox_id, None)
            self._nudge()

    async def tend(self) -> None:
        """Keep the pool as `plan` says. Runs in the pool's task group until that is cancelled."""
        while True:
            changed = self._changed
            todo = plan(self.state)
            for sandbox_id in todo.kill:
                await self._kill_warm(sandbox_id)
            for _ in range(todo.start):
                self._starting += 1
                self._tasks.start_soon(self._start_warm)
            if not todo.kill:
                await changed.wait()

    async def close(self) -> None:
        """Kill everything there is, and what comes up meanwhile."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            while leaving := [*self.warm, *self.given_out]:
                self._warm.clear()
                self._acquired.clear()
                async with anyio.create_task_group() as kills:
                    for sandbox in leaving:
                        kills.start_soon(sandbox.kill)

    async def _warm_one(self, template: Template) -> Sandbox | None:
        """A warm sandbox that runs, or the next one to come up if it is promised to nobody else."""
        if template != self._template:
            return None
        for sandbox_id, sandbox in self._warm.items():
            if sandbox.is_running:
                return self._warm.pop(sandbox_id)
        if self._starting <= len(self._promises):
            return None
        promise = _Promise()
        self._promises.append(promise)
        self._hurry.set()
        self._hurry = anyio.Event()
        try:
            await promise.resolved.wait()
        except BaseException:
            if promise.sandbox is not None:
                self._warm[promise.sandbox.sandbox_id] = promise.sandbox
            elif promise in self._promises:
                self._promises.remove(promise)
            raise
        return promise.sandbox

    async def _make_room(self) -> None:
        """A start of our own counts already; warm ones make way for it."""
        while True:
            state = self.state
            if state.acquired + state.starting + len(state.warm) <= state.slots:
                return
            if state.warm:
                await self._kill_warm(state.warm[0][0])
            else:
                await self._changed.wait()

    async def _start_warm(self) -> None:
        """One start for the pool itself; runs in the task group. A failure pauses all such starts for a while."""
        if not self._promises:
            with anyio.CancelScope(deadline=self._given_at + LULL_S):
                await self._hurry.wait()
        try:
            sandbox = await self._open(self._template, secrets.randbits(32))
        except (RlmServiceError, OSError) as exc:
            self._started(None)
            self._failures += 1
            pause_s = pause_after(self._failures)
            _log.warning("warm_sandbox_failed", error=str(exc), failures=self._failures, pause_s=pause_s)
            self._pauses += 1
            self._nudge()
            await anyio.sleep(pause_s)
            self._pauses -= 1
            self._nudge()
            return
        self._failures = 0
        self._started(sandbox)
        await sandbox.wait_until_gone()
        self._nudge()

    def _started(self, sandbox: Sandbox | None) -> None:
        """A start of the pool's own came to its end: keep the promise it may stand for, else keep the sandbox."""
        self._starting -= 1
        if self._promises and (sandbox is not None or len(self._promises) > self._starting):
            promise = self._promises.popleft()
            promise.sandbox = sandbox
            promise.resolved.set()
        elif sandbox is not None:
            self._warm[sandbox.sandbox_id] = sandbox
        self._nudge()

    async def _open(self, template: Template, hash_seed: int) -> Sandbox:
        sandbox = await open_sandbox(
            self._tasks,
            self._provider,
            template,
            sessions=self._sessions,
            gateway_socket=self._gateway_socket,
            hash_seed=hash_seed,
        )
        if self._closed:  # whoever closed it looks after nothing that comes up later
            await sandbox.kill()
            raise SandboxStartFailed("a sandbox came up when its pool was closed already")
        return sandbox

    async def _kill_warm(self, sandbox_id: SandboxId) -> None:
        if (sandbox := self._warm.get(sandbox_id)) is not None:
            await sandbox.kill()
            self._warm.pop(sandbox_id, None)
            self._nudge()

    def _nudge(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        state = self.state
        return (
            f"<Pool {state.slots} slots: {state.acquired} acquired, {len(state.warm)} of {state.warm_wanted} warm, "
            f"{state.starting} starting{', pausing after a failure' if state.pausing else ''}>"
        )


@asynccontextmanager
async def open_pool(
    provider: Provider,
    *,
    sessions: Path,
    gateway_socket: Path | None,
    slots: int,
    warm: int,
    template: Template | None = None,
) -> AsyncIterator[Pool]:
    """A pool that starts warm sandboxes at once; every sandbox of it is dead when the block ends. What the block
    raises comes out as it is, not in the group of the pool's own tasks."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        pool = Pool(
            tasks,
            provider,
            sessions=sessions,
            gateway_socket=gateway_socket,
            slots=slots,
            warm=warm,
            template=template or Template(),
        )
        tasks.start_soon(pool.tend)
        try:
            yield pool
        except Exception as exc:  # noqa: BLE001 - raised again below
            failure = exc
        finally:
            await pool.close()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
