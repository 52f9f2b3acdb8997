"""Stopping a run wherever it is: waiting for its turn, reading a value, between two tasks, in a child."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import RunId, TenantId
from service.journal.redis_journal import Journal
from service.loop.events import CallFinished, ChildRunFinished, Event, HostCallAnswered, RunFinished, SandboxAcquired
from service.loop.values import CallOutcome, Limits, StopReason
from service.models.port import ModelReply, ModelRequest
from service.money import parse_usd
from service.runs.calls.purse import run_account
from service.runs.driving.drives import Drives
from service.store.blobs import Blobs
from service.store.connection import Store
from service.store.fences import NO_FENCE, Fence
from service.store.riders import Rider
from tests.runs.doubles import usage_of
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio


async def finished(on: Stage, run_id: RunId) -> RunFinished:
    events = [entry.event async for entry in on.service.runs.follow(run_id)]
    assert isinstance(events[-1], RunFinished)
    return events[-1]


async def held(on: Stage, run_id: RunId) -> int:
    (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
    return balance.held


async def never(request: ModelRequest) -> ModelReply:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_run_that_waits_for_its_slot_hears_a_cancel(tmp_path: Path) -> None:
    """It ends at once as cancelled, without a call, and gives the wrap-up's money back."""
    async with stage(tmp_path, repl("llm_query('x')"), sub=never, settings={"RLM_SANDBOX_SLOTS": "1"}) as on:
        request = await on.request("x", Limits(depth=0, cost=parse_usd("1")))
        first = await on.service.runs.submit(request)
        on.service.runs.start(first)
        await on.model.was_asked.wait()
        waiting = await on.service.runs.submit(request)
        on.service.runs.start(waiting)
        await on.service.runs.cancel(waiting)
        assert (await finished(on, waiting)).stop_reason is StopReason.CANCELLED
        assert len(on.model.root_requests) == 1
        assert await held(on, waiting) == 0
        await on.service.runs.cancel(first)
        await finished(on, first)


class EndsFirst(Journal):
    """A journal in which a run ends just before it would say that it has a sandbox."""

    def __init__(self, store: Store, blobs: Blobs, tenant: TenantId) -> None:
        super().__init__(store, blobs, tenant)
        self._came_up = anyio.Event()
        self._ended = anyio.Event()

    async def append(
        self,
        run_id: RunId,
        epoch: int,
        event: Event,
        rider: Rider | None = None,
        *,
        ahead: Sequence[Event] = (),
        within: Fence = NO_FENCE,
    ) -> int:
        if isinstance(event, SandboxAcquired):
            self._came_up.set()
            await self._ended.wait()
        if isinstance(event, RunFinished):
            await self._came_up.wait()
        seq = await super().append(run_id, epoch, event, rider, ahead=ahead, within=within)
        if isinstance(event, RunFinished):
            self._ended.set()
        return seq


async def test_a_run_that_ends_while_its_sandbox_comes_up_has_just_ended(tmp_path: Path) -> None:
    """That there is a sandbox now is no failure of the run: it stays as it ended, and the sandbox is given back."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        rooms, seats = on.service.runs.rooms, on.service.runs.seats
        journal = EndsFirst(on.service.store, on.service.blobs, rooms.journal.tenant)
        drives = Drives(replace(rooms, journal=journal), seats)
        run_id = await on.service.runs.submit(await on.request("x"))
        await on.service.runs.cancel(run_id)
        before = repr(rooms.slots)
        with anyio.fail_after(60):
            await drives.drive_root(await drives.claim_root(run_id))
        assert (await finished(on, run_id)).stop_reason is StopReason.CANCELLED
        assert repr(rooms.slots) == before
        assert await held(on, run_id) == 0


async def test_a_run_that_waits_past_its_deadline_asks_nothing(tmp_path: Path) -> None:
    """It ends at its deadline with nothing spent: there is nothing to wrap up."""
    async with stage(tmp_path, repl("llm_query('x')"), sub=never, settings={"RLM_SANDBOX_SLOTS": "1"}) as on:
        request = await on.request("x", Limits(depth=0))
        first = await on.service.runs.submit(request)
        on.service.runs.start(first)
        await on.model.was_asked.wait()
        late = await on.play(replace(request, limits=Limits(depth=0, wall_s=1.0)))
        assert (late.finished.stop_reason, late.finished.spent) == (StopReason.DEADLINE, 0)
        await on.service.runs.cancel(first)
        await finished(on, first)


async def test_a_value_that_never_comes_does_not_keep_a_run_from_ending(tmp_path: Path) -> None:
    """A final whose `__str__` loops for ever is broken off by a cancel."""
    bad = "class Bad:\n    def __str__(self):\n        while True: pass\nbad = Bad()"
    async with stage(tmp_path, repl(bad), "FINAL_VAR(bad)") as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        on.service.runs.start(run_id)
        async for entry in on.service.runs.follow(run_id):
            if isinstance(entry.event, CallFinished) and "FINAL_VAR" in entry.event.text:
                await on.service.runs.cancel(run_id)
        assert (await on.service.runs.show(run_id)).stop_reason is StopReason.CANCELLED


async def test_children_that_wait_for_a_slot_leave_nothing_behind_when_cancelled(tmp_path: Path) -> None:
    """One child runs, the others wait: after a cancel the one has ended in its own journal, the others never were."""

    def turn(request: ModelRequest) -> str:
        if any("carry it out" in message.content for message in request.messages[:2]):
            return repl("llm_query('wait')")
        return repl("rlm_query_batched(['a task'] * 4)")

    async with stage(tmp_path, turn, sub=never, settings={"RLM_SANDBOX_SLOTS": "2"}) as on:
        run_id = await on.service.runs.submit(await on.request("x", Limits(cost=parse_usd("1"), depth=1)))
        on.service.runs.start(run_id)
        while not on.model.sub_requests:
            await anyio.lowlevel.checkpoint()
        await on.service.runs.cancel(run_id)
        events = [entry.event async for entry in on.service.runs.follow(run_id)]
        (child,) = [event.child for event in events if isinstance(event, ChildRunFinished)]
        assert child.stop_reason is StopReason.CANCELLED
        assert (await on.service.runs.show(child.run_id)).stop_reason is StopReason.CANCELLED
        assert await held(on, run_id) == 0


async def test_a_cancelled_batch_keeps_what_was_paid_for(tmp_path: Path) -> None:
    """Of five sub-calls two are answered when the run is stopped: the record names five items, three of them failed."""

    async def sub(request: ModelRequest) -> ModelReply:
        if request.messages[-1].content in ("p0", "p1"):
            return ModelReply(text="yes", usage=usage_of(request, "yes"))
        return await never(request)

    async with stage(tmp_path, repl("llm_query_batched([f'p{i}' for i in range(5)])"), sub=sub) as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        on.service.runs.start(run_id)
        answered = 0
        async for entry in on.service.runs.follow(run_id):
            event = entry.event
            answered += isinstance(event, CallFinished) and event.origin is not None
            if answered == 2 and isinstance(event, CallFinished):
                await on.service.runs.cancel(run_id)
        events = [entry.event async for entry in on.service.runs.follow(run_id)]
        (record,) = [event for event in events if isinstance(event, HostCallAnswered)]
        assert (record.items, len(record.failures)) == (5, 3)
        view = await on.service.runs.show(run_id)
        assert view.sub_calls == 2
        assert view.stop_reason is StopReason.CANCELLED


async def test_runs_of_kept_sessions_share_scarce_slots(tmp_path: Path) -> None:
    """Two sessions on two slots, each run of depth 1: both answer, one after the other, and keep their variables."""
    turns = (repl("n = globals().get('n', 0) + 1\nFINAL(n)"),)
    async with stage(tmp_path, *turns, settings={"RLM_SANDBOX_SLOTS": "2", "RLM_WARM_SANDBOXES": "0"}) as on:
        sessions = [await on.service.runs.open_session() for _ in range(2)]
        requests = [await on.request("x", Limits(depth=1), session_id=session) for session in sessions]
        answers: list[bytes] = []

        async def play(index: int) -> None:
            answers.append((await on.play(requests[index])).answer)

        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(play, 0)
                tasks.start_soon(play, 1)
        assert answers == [b"1", b"1", b"2", b"2"]


async def test_code_that_is_too_long_is_told_and_not_fatal(tmp_path: Path) -> None:
    """A block over the wire's limit is a cell that raised; the run goes on."""
    async with stage(tmp_path, repl("x = '" + "y" * (3 << 20) + "'"), repl("FINAL('went on')")) as on:
        played = await on.play(await on.request("x"))
        assert played.answer == b"went on"


async def test_attempts_that_failed_are_no_sub_calls(tmp_path: Path) -> None:
    """The limit, the budget line and `budget()` count what was answered."""
    failures = iter([True, False])

    async def sub(request: ModelRequest) -> ModelReply:
        if next(failures):
            raise anyio.BrokenResourceError
        return ModelReply(text="yes", usage=usage_of(request, "yes"))

    code = "llm_query('x')\nFINAL(str(budget()['sub_calls']))"
    async with stage(tmp_path, repl(code), sub=sub) as on:
        played = await on.play(await on.request("x", Limits(sub_calls=10)))
        calls = [event for event in played.events if isinstance(event, CallFinished) and event.origin is not None]
        assert [call.outcome is CallOutcome.OK for call in calls] == [False, True]
        assert played.answer == b"9"
        assert (await on.service.runs.show(played.run_id)).sub_calls == 1


async def test_closing_a_session_under_a_waiting_run_leaves_no_slot_behind(tmp_path: Path) -> None:
    """The run that was submitted before still answers; afterwards the only slot is free for others."""

    def turn(request: ModelRequest) -> str:
        return repl("llm_query('wait')") if len(on.model.root_requests) == 1 else repl("FINAL('ok')")

    settings = {"RLM_SANDBOX_SLOTS": "1", "RLM_WARM_SANDBOXES": "0"}
    async with stage(tmp_path, turn, sub=never, settings=settings) as on:
        session = await on.service.runs.open_session()
        request = await on.request("x", Limits(depth=0), session_id=session)
        first, second = [await on.service.runs.submit(request) for _ in range(2)]
        on.service.runs.start(first)
        await on.model.was_asked.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(on.service.runs.close_session, session)
            on.service.runs.start(second)
            await on.service.runs.cancel(first)
        assert (await finished(on, second)).stop_reason is StopReason.ANSWERED
        other = await on.play(await on.request("x", Limits(depth=0, wall_s=10.0)))
        assert other.answer == b"ok"


async def test_closing_a_session_does_not_wait_for_its_run(tmp_path: Path) -> None:
    """While a run is in it the session is closed at once; when the run has ended nothing of the session is left."""
    async with stage(tmp_path, repl("llm_query('wait')"), sub=never) as on:
        runs, kept = on.service.runs, on.service.tenancy.kept
        session = await runs.open_session()
        run_id = await runs.submit(await on.request("x", Limits(depth=0), session_id=session))
        runs.start(run_id)
        with anyio.fail_after(60):
            while not on.model.sub_requests:
                await anyio.lowlevel.checkpoint()
        with anyio.fail_after(30):
            await runs.close_session(session)
        sandbox, ended = kept.by_id[session].session.opened, runs.end_of(run_id)
        assert sandbox.is_running
        assert ended is not None
        await runs.cancel(run_id)
        await ended.wait()
        assert session not in kept.by_id
        assert not sandbox.is_running


@pytest.mark.parametrize("at_once", [False, True])
async def test_whoever_leaves_ends_its_runs(tmp_path: Path, at_once: bool) -> None:
    """Runs are cancelled and settled before the service closes, also by who waits for none of them to end in order."""
    async with stage(tmp_path, repl("llm_query('x')"), sub=never) as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        on.service.runs.start(run_id)
        await on.model.was_asked.wait()
        if at_once:
            on.service.leave_at_once()
    async with stage(tmp_path, "") as again:
        assert (await again.service.runs.show(run_id)).stop_reason is StopReason.CANCELLED
        assert await held(again, run_id) == 0
