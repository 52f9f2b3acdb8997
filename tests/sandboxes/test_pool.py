"""The warm pool: what it decides, and that it keeps to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ids import SandboxId
from service.sandboxes.pool import LONGEST_PAUSE_S, Pool, PoolState, open_pool, pause_after, plan
from service.sandboxes.port import NoSandboxSlot, SandboxStartFailed, Template
from tests.sandboxes.scripted import ScriptedProcess, ScriptedProvider

states = st.builds(
    PoolState,
    slots=st.integers(1, 6),
    warm_wanted=st.integers(0, 6),
    acquired=st.integers(0, 6),
    starting=st.integers(0, 4),
    warm=st.lists(st.booleans(), max_size=6).map(
        lambda runs: tuple((SandboxId(f"sbx_{n}"), running) for n, running in enumerate(runs))
    ),
    pausing=st.booleans(),
)


@given(states)
def test_a_plan_never_oversteps(state: PoolState) -> None:
    """A plan kills every dead warm sandbox, and never starts into slots that are taken or are not wanted."""
    todo = plan(state)
    dead = {sandbox_id for sandbox_id, runs in state.warm if not runs}
    kept = len(state.warm) - len(todo.kill)
    assert dead <= set(todo.kill)
    assert len(set(todo.kill)) == len(todo.kill)
    if todo.start:
        assert state.acquired + state.starting + kept + todo.start <= state.slots
        assert state.starting + kept + todo.start <= state.warm_wanted
        assert not state.pausing
    if kept:
        assert state.acquired + kept <= state.slots or state.acquired > state.slots


@given(states)
def test_plans_come_to_rest(state: PoolState) -> None:
    """Doing what a plan says, again and again, reaches a state in which there is nothing to do."""
    for _ in range(20):
        todo = plan(state)
        if not todo.start and not todo.kill:
            return
        warm = tuple(entry for entry in state.warm if entry[0] not in todo.kill)
        state = replace(state, warm=warm, starting=state.starting + todo.start)
    raise AssertionError(f"no rest: {state}")


def test_pauses_grow_and_end_somewhere() -> None:
    """Failures in a row lengthen the pause, up to a bound."""
    pauses = [pause_after(failures) for failures in range(1, 60)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


@asynccontextmanager
async def pool_of(
    data: Path, *, slots: int, warm: int, provider: ScriptedProvider | None = None
) -> AsyncIterator[tuple[Pool, ScriptedProvider]]:
    async with anyio.create_task_group() as tasks:
        provider = provider or ScriptedProvider(tasks=tasks)
        provider.tasks = tasks
        async with open_pool(provider, sessions=data / "s", gateway_socket=None, slots=slots, warm=warm) as pool:
            yield pool, provider
        assert not any(process.is_running for process in provider.processes)
        tasks.cancel_scope.cancel()


async def until_warm(pool: Pool, count: int) -> None:
    with anyio.fail_after(10):
        while len(pool.state.warm) != count:
            await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_a_warm_sandbox_is_given_out_and_replaced(data: Path) -> None:
    """An acquire takes what is warm, and the pool fills up again within its slots."""
    async with pool_of(data, slots=3, warm=2) as (pool, provider):
        await until_warm(pool, 2)
        first = await pool.acquire()
        assert first.is_running
        await until_warm(pool, 2)
        assert len(provider.processes) == 3
        await pool.release(first)
        assert not first.is_running


@pytest.mark.anyio
async def test_alive_sandboxes_never_exceed_the_slots(data: Path) -> None:
    """Warm ones make way for those that are asked for, up to the last slot; then NoSandboxSlot says what to do."""
    async with pool_of(data, slots=2, warm=2) as (pool, provider):
        await until_warm(pool, 2)
        other = Template(memory_bytes=1 << 26)
        held = [await pool.acquire(other), await pool.acquire(other)]
        assert sum(process.is_running for process in provider.processes) == 2
        with pytest.raises(NoSandboxSlot, match="RLM_SANDBOX_SLOTS"):
            await pool.acquire()
        for sandbox in held:
            await pool.release(sandbox)
            await pool.release(sandbox)
        await until_warm(pool, 2)


@pytest.mark.anyio
async def test_a_dead_warm_sandbox_is_never_given_out(data: Path) -> None:
    """A warm sandbox whose process has ended is replaced, and who asks gets one that runs."""
    async with pool_of(data, slots=2, warm=1) as (pool, provider):
        await until_warm(pool, 1)
        provider.processes[0].end()
        sandbox = await pool.acquire()
        assert sandbox.is_running
        await pool.release(sandbox)


@pytest.mark.anyio
async def test_a_caller_takes_over_the_start_that_is_under_way(data: Path) -> None:
    """With one slot and a start under way, an acquire waits for that start instead of being one too many."""
    async with pool_of(data, slots=1, warm=1) as (pool, provider):
        while pool.state.starting == 0:
            await anyio.lowlevel.checkpoint()
        sandbox = await pool.acquire()
        assert len(provider.processes) == 1
        await pool.release(sandbox)


@pytest.mark.anyio
async def test_a_wanted_hash_seed_starts_a_sandbox_of_its_own(data: Path) -> None:
    """Who rebuilds a namespace gets a sandbox with the seed asked for, never a warm one with another."""
    async with pool_of(data, slots=2, warm=1) as (pool, _):
        await until_warm(pool, 1)
        sandbox = await pool.acquire(hash_seed=77)
        assert sandbox.hash_seed == 77
        await pool.release(sandbox)


class Failing(ScriptedProvider):
    """Starts nothing."""

    async def start(
        self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int
    ) -> ScriptedProcess:
        raise SandboxStartFailed("no")


@pytest.mark.anyio
async def test_failed_starts_pause_the_pool_and_reach_the_caller(data: Path) -> None:
    """A provider that fails does not make the pool spin, and an acquire says why; nothing is left on disk."""
    async with anyio.create_task_group() as tasks, pool_of(data, slots=2, warm=2, provider=Failing(tasks=tasks)) as it:
        pool, _ = it
        with pytest.raises(SandboxStartFailed, match="no"):
            await pool.acquire()
        while not pool.state.pausing:
            await anyio.lowlevel.checkpoint()
        assert plan(pool.state).start == 0
    assert list((data / "s").iterdir()) == []


@pytest.mark.anyio
async def test_closing_kills_what_was_given_out_too(data: Path) -> None:
    """A sandbox that nobody released is dead when the pool is closed, and its directory gone."""
    async with pool_of(data, slots=2, warm=1) as (pool, _):
        sandbox = await pool.acquire()
    assert not sandbox.is_running
    assert not sandbox.directory.exists()


class LeavingSlowly(ScriptedProcess):
    """Ends when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked_to_end, self.may_end = anyio.Event(), anyio.Event()

    async def kill(self) -> None:
        self.is_asked_to_end.set()
        await self.may_end.wait()
        await super().kill()


class OneByOne(ScriptedProvider):
    """Its first sandbox leaves slowly; later ones come up while it does."""

    async def start(
        self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int
    ) -> ScriptedProcess:
        if self.processes:
            await leaving(self).is_asked_to_end.wait()
        process = ScriptedProcess() if self.processes else LeavingSlowly()
        self.processes.append(process)
        self.tasks.start_soon(self._live, process, directory)
        return process


def leaving(provider: ScriptedProvider) -> LeavingSlowly:
    first = provider.processes[0]
    assert isinstance(first, LeavingSlowly)
    return first


@pytest.mark.anyio
async def test_what_comes_up_while_the_pool_is_closed_is_killed_too(data: Path) -> None:
    """A start that was under way when closing began leaves nothing behind, however long the others take to end."""

    async def let_go(pool: Pool, provider: ScriptedProvider) -> None:
        await leaving(provider).is_asked_to_end.wait()
        with anyio.fail_after(60):
            while len(provider.processes) < 2 or (len(pool.state.warm) < 2 and provider.processes[1].is_running):
                await anyio.lowlevel.checkpoint()
        leaving(provider).may_end.set()

    async with (
        anyio.create_task_group() as tasks,
        pool_of(data, slots=2, warm=2, provider=OneByOne(tasks=tasks)) as (pool, provider),
    ):
        await until_warm(pool, 1)
        tasks.start_soon(let_go, pool, provider)
        with anyio.fail_after(60):
            while not pool.state.starting:
                await anyio.lowlevel.checkpoint()
