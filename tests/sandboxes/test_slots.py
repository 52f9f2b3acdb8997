"""Slots: never more than there are, and everybody who was admitted can always go on."""

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.sandboxes.port import NoSandboxSlot, TooManyLevels
from service.sandboxes.slots import Chain, Shares, SlotKind, Slots, admitted, kind_to_take, left, returned, taken

MANY_S = 1000.0


class Pure(RuleBasedStateMachine):
    """The decision functions alone, driven by arbitrary admissions, takes and returns."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(total=7)
        self.chains: list[list[bool]] = []
        self.spare = 0

    @rule(levels=st.integers(1, 4))
    def admit(self, levels: int) -> None:
        if (shares := admitted(self.shares, levels)) is not None:
            self.shares = shares
            self.chains.append([False] * levels)

    @precondition(lambda self: self.chains)
    @rule(pick=st.data(), chains_wait=st.booleans())
    def take(self, pick: st.DataObject, chains_wait: bool) -> None:
        own = pick.draw(st.sampled_from(self.chains))
        level = pick.draw(st.integers(0, len(own) - 1))
        kind = kind_to_take(self.shares, own_is_free=not own[level], may_be_spare=not chains_wait)
        assert kind is not None or own[level], "a free own slot is always given"
        if kind is not None:
            self.shares = taken(self.shares, kind)
            own[level] = own[level] or kind == "own"
            self.spare += kind == "spare"

    @rule(pick=st.data())
    def give_back(self, pick: st.DataObject) -> None:
        held: list[SlotKind] = []
        if self.spare:
            held.append("spare")
        if any(map(any, self.chains)):
            held.append("own")
        if not held:
            return
        kind = pick.draw(st.sampled_from(held))
        self.shares = returned(self.shares, kind)
        if kind == "spare":
            self.spare -= 1
        else:
            own = next(own for own in self.chains if any(own))
            own[own.index(True)] = False

    @rule()
    def leave(self) -> None:
        for own in self.chains:
            if not any(own):
                self.chains.remove(own)
                self.shares = left(self.shares, len(own))
                return

    @invariant()
    def never_more_than_there_are(self) -> None:
        in_use = self.spare + sum(map(sum, self.chains))
        assert in_use <= self.spare + sum(map(len, self.chains)) <= self.shares.total
        assert self.shares.guaranteed == sum(map(len, self.chains))
        assert self.shares.spare >= 0


TestPure = Pure.TestCase
TestPure.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def _family(slots: Slots, levels: int, children: int, in_use: list[int]) -> None:
    """A run whose every sandbox waits for `children` children at once, as deep as it was admitted."""

    async def member(chain: Chain, level: int) -> None:
        async with chain.take(level):
            in_use[0] += 1
            in_use[1] = max(in_use)
            await anyio.lowlevel.checkpoint()
            if level + 1 < levels:
                async with anyio.create_task_group() as batch:
                    for _ in range(children):
                        batch.start_soon(member, chain, level + 1)
            in_use[0] -= 1

    async with slots.admit(levels, deadline_s=MANY_S) as chain:
        await member(chain, 0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("total", "runs", "levels", "children"), [(3, 5, 3, 4), (4, 6, 2, 5), (8, 4, 3, 3), (1, 4, 1, 1)]
)
async def test_families_never_deadlock(total: int, runs: int, levels: int, children: int) -> None:
    """Runs whose parents hold sandboxes while batches of children want theirs all come to their end."""
    slots = Slots(total)
    in_use = [0, 0]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                tasks.start_soon(_family, slots, levels, children, in_use)
    assert in_use[0] == 0
    assert 0 < in_use[1] <= total
    assert slots.shares == Shares(total=total)


@pytest.mark.anyio
async def test_a_depth_that_can_never_fit_is_refused_at_once() -> None:
    """More levels than slots is an error that says what to change, not a wait."""
    with pytest.raises(TooManyLevels, match="RLM_SANDBOX_SLOTS"):
        async with Slots(2).admit(3, deadline_s=MANY_S):
            pass


@pytest.mark.anyio
async def test_a_run_that_is_not_admitted_in_time_is_told() -> None:
    """Waiting for admission ends at its deadline and leaves no trace."""
    slots = Slots(1)
    async with slots.admit(1, deadline_s=MANY_S):
        with pytest.raises(NoSandboxSlot, match="within 0 s"):
            async with slots.admit(1, deadline_s=0):
                pass
    assert slots.shares == Shares(total=1)


@pytest.mark.anyio
async def test_spare_slots_let_siblings_run_side_by_side() -> None:
    """With slots to spare a batch of children runs at once, each with its own."""
    slots = Slots(4)
    async with slots.admit(2, deadline_s=MANY_S) as chain, AsyncExitStack() as held:
        with anyio.fail_after(5):
            for level in (0, 1, 1, 1):
                await held.enter_async_context(chain.take(level))
        assert slots.shares.spare == 0


@pytest.mark.anyio
async def test_whoever_waits_to_be_admitted_goes_before_further_siblings() -> None:
    """While a run waits at the door, spare slots are not spent on siblings of those inside."""
    slots = Slots(3)
    admitted_too = anyio.Event()
    sibling_in = anyio.Event()

    async def another_run() -> None:
        async with slots.admit(3, deadline_s=MANY_S):
            admitted_too.set()

    async def sibling(chain: Chain) -> None:
        async with chain.take(0):
            sibling_in.set()

    async with anyio.create_task_group() as tasks:
        async with slots.admit(1, deadline_s=MANY_S) as chain:
            async with chain.take(0):
                tasks.start_soon(another_run)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(sibling, chain)
                await anyio.wait_all_tasks_blocked()
                assert not sibling_in.is_set()
            await sibling_in.wait()
        await admitted_too.wait()


@pytest.mark.anyio
async def test_whoever_is_cancelled_while_waiting_leaves_the_line() -> None:
    """Cancelled waiters, for admission or for a slot, hold nothing and block nobody."""
    slots = Slots(1)

    async def cancelled(wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    async with slots.admit(1, deadline_s=MANY_S) as chain:

        async def want_admission() -> None:
            async with slots.admit(1, deadline_s=MANY_S):
                pass

        async def want_slot() -> None:
            async with chain.take(0):
                pass

        async with chain.take(0):
            await cancelled(want_admission)
            await cancelled(want_slot)
        async with chain.take(0):
            pass
    assert slots.shares == Shares(total=1)
    assert "0 runs and 0 sandboxes wait" in repr(slots)
