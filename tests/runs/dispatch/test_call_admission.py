"""What a model call must have before its money is held, over a real store."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from service.ids import CallId, KeyId, TenantId, new_id
from service.runs.dispatch.call_admission import CallAdmission, CallAsked, CallLines
from service.runs.dispatch.counts import Counts
from service.store.connection import Store, open_store
from service.store.errors import StoreFailed
from service.tenants.errors import RateLimited
from service.tenants.quotas import Counted
from service.tenants.values import CallerLimits, Level
from tests.runs.doubles import rules

pytestmark = pytest.mark.anyio

LONG_S = 60.0


@asynccontextmanager
async def store_in(directory: Path) -> AsyncIterator[Store]:
    async with open_store(data_directory=directory, redis_url=None) as store:
        yield store


def admission(store: Store, limits: CallerLimits, *, lines: CallLines | None = None) -> CallAdmission:
    """Of a tenant of its own, on a replica of its own unless it shares `lines`."""
    mine = rules(store, TenantId(new_id("ten")), limits=limits)
    return CallAdmission(mine, lines or CallLines(256), Counts(mine), time.time)


def asked(name: str, tokens: int = 10, *, provider: str = "p") -> CallAsked:
    return CallAsked(call_id=CallId(name), provider=provider, key_line=(), tokens=tokens)


async def test_no_more_calls_are_in_flight_than_the_tenant_may_have(tmp_path: Path) -> None:
    """Of twenty calls at once three are inside at a time, and all of them get in."""
    async with store_in(tmp_path) as store:
        calls = admission(store, CallerLimits(model_calls=3))
        inside, most, done = 0, 0, 0
        is_full = anyio.Event()

        async def one(name: str) -> None:
            nonlocal inside, most, done
            await calls.admit(asked(name), until=time.time() + LONG_S)
            inside += 1
            most = max(most, inside)
            if inside == 3:
                is_full.set()
            await is_full.wait()
            inside -= 1
            await calls.dismiss(CallId(name), used_tokens=1)
            done += 1

        async with anyio.create_task_group() as tasks:
            for index in range(20):
                tasks.start_soon(one, f"c{index}")
        assert (most, done) == (3, 20)


async def test_calls_of_other_replicas_count_too(tmp_path: Path) -> None:
    """What one replica's calls take, another's cannot have until they are over."""
    async with store_in(tmp_path) as store:
        mine = rules(store, TenantId(new_id("ten")), limits=CallerLimits(model_calls=1))
        here, there = (CallAdmission(mine, CallLines(9), Counts(mine), time.time) for _ in range(2))
        await here.admit(asked("a"), until=time.time() + LONG_S)
        assert await there.admit_now([asked("b")]) == 0
        await here.dismiss(CallId("a"), used_tokens=0)
        await there.admit(asked("b"), until=time.time() + LONG_S)


async def test_as_many_of_a_batch_get_in_as_fit(tmp_path: Path) -> None:
    """The first of them, never some from the middle; and what did not get in holds nothing."""
    async with store_in(tmp_path) as store:
        batch = [asked(f"c{index}") for index in range(8)]
        assert await admission(store, CallerLimits(model_calls=3)).admit_now(batch) == 3
        assert await admission(store, CallerLimits(tokens_per_minute=45)).admit_now(batch) == 4
        assert await admission(store, CallerLimits(), lines=CallLines(5)).admit_now(batch) == 5
        assert await admission(store, CallerLimits()).admit_now(batch) == 8


async def test_tokens_by_the_minute_hold_and_unused_ones_come_back(tmp_path: Path) -> None:
    """A call whose bound takes the whole minute leaves none to the next, until it is known to have used little."""
    async with store_in(tmp_path) as store:
        calls = admission(store, CallerLimits(tokens_per_minute=100))
        await calls.admit(asked("big", 100), until=time.time() + LONG_S)
        assert await calls.admit_now([asked("next", 80)]) == 0
        await calls.dismiss(CallId("big"), used_tokens=10)
        assert await calls.admit_now([asked("next", 80)]) == 1


async def test_a_call_that_never_fits_is_refused_at_once(tmp_path: Path) -> None:
    """More tokens than a minute has: waiting would not help, and the sentence says so."""
    async with store_in(tmp_path) as store:
        calls = admission(store, CallerLimits(tokens_per_minute=100))
        with pytest.raises(RateLimited, match="less than this one request needs"):
            await calls.admit(asked("huge", 101), until=time.time() + 10_000)


async def test_a_tenant_that_waits_for_its_own_limit_takes_no_place_of_others(tmp_path: Path) -> None:
    """With one place for all, a tenant at its own limit of calls or tokens does not hold it."""
    async with store_in(tmp_path) as store:
        lines = CallLines(2)
        limited = admission(store, CallerLimits(model_calls=1, tokens_per_minute=100), lines=lines)
        other = admission(store, CallerLimits(), lines=lines)
        await limited.admit(asked("a", 100), until=time.time() + LONG_S)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: limited.admit(asked("b"), until=time.time() + LONG_S))
            await anyio.wait_all_tasks_blocked()
            for name in ("x", "y", "z"):
                await other.admit(asked(name), until=time.time() + LONG_S)
                await other.dismiss(CallId(name), used_tokens=0)
            tasks.cancel_scope.cancel()


async def test_who_gives_up_waiting_holds_nothing(tmp_path: Path) -> None:
    """Calls that are cancelled while they wait leave their places, counts and turns to others."""
    async with store_in(tmp_path) as store:
        lines = CallLines(1)
        mine = rules(store, TenantId(new_id("ten")), limits=CallerLimits(model_calls=2))
        counts = Counts(mine)
        calls = CallAdmission(mine, lines, counts, time.time)
        await calls.admit(asked("a"), until=time.time() + LONG_S)
        async with anyio.create_task_group() as tasks:
            for index in range(3):
                tasks.start_soon(lambda name: calls.admit(asked(name), until=time.time() + LONG_S), f"w{index}")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await calls.dismiss(CallId("a"), used_tokens=0)
        (level,) = await mine.levels_of(())
        assert isinstance(level, Level)
        assert await mine.quotas.count(Counted.MODEL_CALLS, level) == 0
        await calls.admit(asked("b"), until=time.time() + LONG_S)


async def test_a_batch_that_breaks_off_leaves_nobody_inside(tmp_path: Path) -> None:
    """Its store fails, or it is cancelled, at the third call: the places and counts of the first two are free again."""
    async with store_in(tmp_path) as store:
        mine = rules(store, TenantId(new_id("ten")), limits=CallerLimits(model_calls=4))
        scope, asked_for = anyio.CancelScope(), 0
        is_cancelled = False

        async def levels_of(key_line: Sequence[KeyId]) -> tuple[Level, ...]:
            nonlocal asked_for
            asked_for += 1
            if asked_for == 6:  # twice for each call: its count, then its tokens
                if is_cancelled:
                    scope.cancel()
                    await anyio.sleep_forever()
                raise StoreFailed("the store is away")
            return await mine.levels_of(key_line)

        breaking = replace(mine, levels_of=levels_of)
        calls = CallAdmission(breaking, CallLines(4), Counts(breaking), time.time)
        with pytest.raises(StoreFailed):
            await calls.admit_now([asked(f"a{index}") for index in range(4)])
        asked_for, is_cancelled = 0, True
        with scope:
            await calls.admit_now([asked(f"b{index}") for index in range(4)])
        assert scope.cancelled_caught
        assert await calls.admit_now([asked(f"c{index}") for index in range(4)]) == 4


async def test_providers_that_nobody_calls_are_forgotten(tmp_path: Path) -> None:
    """However many providers were called, and whether a call was made, refused or given up, no line is kept for it."""
    async with store_in(tmp_path) as store:
        lines = CallLines(1)
        calls = admission(store, CallerLimits(tokens_per_minute=100), lines=lines)
        for index in range(3):
            call = asked(f"made-{index}", provider=f"scripted/sub?latency_ms={index}")
            assert await calls.admit_now([call]) == 1
            await calls.dismiss(call.call_id, used_tokens=0)
        with pytest.raises(RateLimited):
            await calls.admit(asked("refused", 101, provider="of the refused"), until=time.time() + LONG_S)
        await calls.admit(asked("inside", provider="in use"), until=time.time() + LONG_S)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: calls.admit(asked("given up", provider="in use"), until=time.time() + LONG_S))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert lines.providers == {"in use"}
        await calls.dismiss(CallId("inside"), used_tokens=0)
        assert not lines.providers
