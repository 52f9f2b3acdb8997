"""How much at once a tenant's runs may take, with the whole service around them."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from service.ids import EMBEDDED_TENANT, RunId
from service.loop.events import RunFinished
from service.loop.values import Limits, StopReason
from service.models.port import ModelReply, ModelRequest
from service.runs.values import RunRequest
from service.tenants.errors import ConcurrencyLimited, QuotaExceeded, TenantSuspended
from service.tenants.quotas import Counted
from service.tenants.values import OPERATOR, Caller, CallerLimits
from tests.runs.doubles import usage_of
from tests.runs.playing import Stage, asked_by, repl, stage

pytestmark = pytest.mark.anyio

ASKS = repl("answer['content'] = llm_query('x')\nanswer['ready'] = True")


class Sluice:
    """Sub-calls that come back when the test lets them, and how many there were at once."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.inside = 0
        self.most = 0
        self.came = 0
        self.another = anyio.Event()

    async def __call__(self, request: ModelRequest) -> ModelReply:
        self.inside += 1
        self.came += 1
        self.another.set()
        self.another = anyio.Event()
        self.most = max(self.most, self.inside)
        await self.opened.wait()
        self.inside -= 1
        return ModelReply(text="y", usage=usage_of(request, "y"))

    async def until(self, came: int) -> None:
        with anyio.fail_after(60):
            while self.came < came:
                await self.another.wait()


async def begun(on: Stage, request: RunRequest) -> RunId:
    run_id = await on.service.runs.submit(request)
    on.service.runs.start(run_id)
    return run_id


async def end_of(on: Stage, run_id: RunId) -> RunFinished:
    last = None
    with anyio.fail_after(120):
        async for entry in on.service.runs.follow(run_id):
            last = entry.event
    assert isinstance(last, RunFinished)
    return last


async def suspension_noticed(on: Stage) -> None:
    """Until this replica no longer believes that the tenant may spend."""
    with anyio.fail_after(60):
        while True:
            try:
                await on.service.registry.suspensions.require_active(EMBEDDED_TENANT)
            except TenantSuspended:
                return
            await anyio.sleep(0.05)


async def counted(on: Stage, what: Counted, caller: Caller) -> int:
    return await on.service.registry.quotas_of(caller.tenant.id).count(what, caller.levels[1])


@pytest.mark.parametrize("limits", [CallerLimits(parallel_runs=1), CallerLimits(sandboxes=1)])
async def test_runs_of_a_key_wait_for_one_another(tmp_path: Path, limits: CallerLimits) -> None:
    """With one at once, the second run begins when the first has ended; both are answered, none stays counted."""
    sluice = Sluice()
    async with stage(tmp_path, ASKS, sub=sluice) as on:
        caller = await on.caller(limits)
        request = asked_by(await on.request("x", Limits(depth=0)), caller)
        first, second = [await begun(on, request) for _ in range(2)]
        free = await begun(on, await on.request("x", Limits(depth=0)))
        await sluice.until(came=2)
        turns = [(await on.service.runs.show(run_id)).turns for run_id in (first, second)]
        assert sorted(turns) == [0, 1]
        sluice.opened.set()
        for run_id in (first, second, free):
            assert (await end_of(on, run_id)).stop_reason is StopReason.ANSWERED
        assert sluice.most == 2
        for run_id in (first, second):
            ended = on.service.runs.end_of(run_id)
            if ended is not None:
                await ended.wait()
        for what in (Counted.PARALLEL_RUNS, Counted.QUEUED_RUNS, Counted.SANDBOXES):
            assert await counted(on, what, caller) == 0


async def test_no_more_runs_wait_than_may(tmp_path: Path) -> None:
    """Of one that runs and one that waits, the third is refused and leaves nothing behind; later it is taken."""
    sluice = Sluice()
    async with stage(tmp_path, ASKS, sub=sluice) as on:
        caller = await on.caller(CallerLimits(parallel_runs=1, queued_runs=1))
        request = asked_by(await on.request("x", Limits(depth=0)), caller)
        first = await begun(on, request)
        await sluice.until(came=1)
        second = await begun(on, request)
        with pytest.raises(ConcurrencyLimited, match="queued runs"):
            await on.service.runs.submit(request)
        assert len(await on.service.runs.ls(10)) == 2
        sluice.opened.set()
        for run_id in (first, second):
            assert (await end_of(on, run_id)).stop_reason is StopReason.ANSWERED
        assert (await on.play(request)).finished.stop_reason is StopReason.ANSWERED


async def test_a_run_deeper_than_its_sandboxes_is_refused(tmp_path: Path) -> None:
    """Depth two needs three sandboxes at once; who may have two is told to lower it, and nothing is written."""
    async with stage(tmp_path, ASKS) as on:
        caller = await on.caller(CallerLimits(sandboxes=2))
        request = asked_by(await on.request("x", Limits(depth=2)), caller)
        with pytest.raises(QuotaExceeded, match="lower the depth"):
            await on.service.runs.submit(request)
        assert await on.service.runs.ls(10) == []


async def test_a_cancelled_run_that_waits_leaves_the_queue(tmp_path: Path) -> None:
    """It ends as cancelled without having asked any model, and another can wait in its place."""
    sluice = Sluice()
    async with stage(tmp_path, ASKS, sub=sluice) as on:
        caller = await on.caller(CallerLimits(parallel_runs=1, queued_runs=1))
        request = asked_by(await on.request("x", Limits(depth=0)), caller)
        await begun(on, request)
        await sluice.until(came=1)
        waiting = await begun(on, request)
        await on.service.runs.cancel(waiting)
        assert (await end_of(on, waiting)).stop_reason is StopReason.CANCELLED
        ended = on.service.runs.end_of(waiting)
        if ended is not None:
            await ended.wait()
        another = await begun(on, request)
        sluice.opened.set()
        assert (await end_of(on, another)).stop_reason is StopReason.ANSWERED


async def test_runs_of_a_session_keep_its_sandbox_within_the_limit(tmp_path: Path) -> None:
    """A session's idle sandbox counts, and makes way for a run of the same key that needs it."""
    async with stage(tmp_path, repl("x = 1\nanswer['content'] = 'y'\nanswer['ready'] = True")) as on:
        caller = await on.caller(CallerLimits(sandboxes=1))
        session = await on.service.runs.open_session()
        inside = asked_by(await on.request("x", Limits(depth=0), session), caller)
        outside = replace(inside, session_id=None)
        for request in (inside, inside, outside, inside):
            assert (await on.play(request)).finished.stop_reason is StopReason.ANSWERED


async def test_children_take_turns_when_there_are_no_more_sandboxes(tmp_path: Path) -> None:
    """With two sandboxes for a run of depth one its children run one after the other, and all are answered."""
    asks = repl("answer['content'] = str(len(rlm_query_batched(['a', 'b', 'c'])))\nanswer['ready'] = True")
    answers = repl("answer['content'] = 'c'\nanswer['ready'] = True")

    def turn(request: ModelRequest) -> str:
        return asks if "What is it?" in request.messages[1].content else answers

    async with stage(tmp_path, turn) as on:
        caller = await on.caller(CallerLimits(sandboxes=2))
        played = await on.play(asked_by(await on.request("x", Limits(depth=1)), caller))
        assert (played.finished.stop_reason, played.answer) == (StopReason.ANSWERED, b"3")


@pytest.mark.parametrize("waits", [False, True])
async def test_a_run_whose_tenant_is_suspended_ends_and_says_so(tmp_path: Path, waits: bool) -> None:
    """Whether it works or waits for its turn: its stop reason is `suspended`, and no model is asked any more."""
    sluice = Sluice()
    async with stage(tmp_path, ASKS.replace("answer['ready'] = True", ""), sub=sluice) as on:
        caller = await on.caller(CallerLimits(parallel_runs=1))
        request = asked_by(await on.request("x", Limits(depth=0)), caller)
        works = await begun(on, request)
        await sluice.until(came=1)
        waiting = await begun(on, request)
        await on.service.registry.tenants.suspend(EMBEDDED_TENANT, by=OPERATOR)
        if not waits:
            await suspension_noticed(on)
            asked = len(on.model.root_requests)
            sluice.opened.set()
        finished = await end_of(on, waiting if waits else works)
        assert finished.stop_reason is StopReason.SUSPENDED
        assert "suspended" in finished.message
        if waits:
            assert (await on.service.runs.show(waiting)).turns == 0
        else:
            assert len(on.model.root_requests) == asked
