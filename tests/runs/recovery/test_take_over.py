"""Runs change hands: a replica that lost one, one that hands its own over, and one whose store goes away."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import EMBEDDED_TENANT, RunId
from service.journal.redis_journal import RUNS_LET_GO, Journal
from service.ledger.values import Unit
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    NamespaceRebuilt,
    RootUnavailable,
    RunTakenOver,
    SandboxAcquired,
)
from service.loop.machine import decide, replay
from service.loop.values import CallOutcome, Purpose, StopReason
from service.models.port import ModelReply, ModelRequest
from service.runs.calls.purse import run_account
from service.runs.driving.wrap_up import is_wrap_up, wrap_up_hold_id
from service.runs.recovery.adopting import Attempts, keep_adopting, next_to_adopt
from service.runs.recovery.leases import Leases
from service.runs.recovery.progress import MOST_IN_VAIN, RunStalled, check_progress, take_overs_in_vain
from service.store.errors import StaleEpoch
from service.tenants.key_plans import KeyRequest
from service.tenants.quotas import Counted
from service.tenants.values import OPERATOR, CallerLimits, Scope
from service.wiring.service import Service, open_service
from tests.ledger.charges import charge
from tests.runs.doubles import echo
from tests.runs.playing import ROOT, asked_by
from tests.runs.recovery.crashing import ANSWER, World, end_of, world

pytestmark = pytest.mark.anyio


async def submitted(it: World, service: Service, *, keeps_session: bool = False) -> RunId:
    session_id = await service.runs.open_session() if keeps_session else None
    return await service.runs.submit(await it.request(service, session_id))


async def until(it: World, run_id: RunId, holds: Callable[[Event], bool]) -> None:
    with anyio.fail_after(60):
        async for entry in it.journal.follow(run_id):
            if holds(entry.event):
                return


async def until_idle(service: Service) -> None:
    with anyio.fail_after(60):
        while service.runs.live:
            await anyio.lowlevel.checkpoint()


async def test_a_replica_that_was_paused_too_long_changes_nothing_any_more(tmp_path: Path) -> None:
    """While its call is in flight another replica takes the run over and answers; the first one's writes are refused,
    it holds no money, ends its sandbox and says nothing in the journal."""
    async with world(tmp_path) as it:
        answers = anyio.Event()

        async def first_answers_late(request: ModelRequest) -> ModelReply:
            if len(it.model.sub_requests) == 1:
                await answers.wait()
            return await echo(request)

        it.model.sub = first_answers_late
        async with open_service(it.settings) as first, open_service(it.beside(), serves=True) as second:
            run_id = await submitted(it, first)
            first.runs.start(run_id)
            with anyio.fail_after(60):
                while not it.model.sub_requests:
                    await anyio.lowlevel.checkpoint()
            await it.lapse(run_id)
            finished = await end_of(it, run_id)
            assert finished.stop_reason is StopReason.ANSWERED
            length = len(await it.events(run_id))
            answers.set()
            await until_idle(first)
            assert first.runs.rooms.slots.is_contended is False
            assert len(await it.events(run_id)) == length
            await until_idle(second)
            await it.check_books(run_id)
            events = await it.events(run_id)
            view = await second.runs.show(run_id)
            assert (view.take_overs, view.uncertain_calls) == (1, 1)
            assert "rlm_uncertain_calls_total 1" in second.metrics.text()
        (taken_over,) = [event for event in events if isinstance(event, RunTakenOver)]
        assert taken_over.uncertain_calls == 1
        lost = [event for event in events if isinstance(event, CallFinished) and event.outcome is CallOutcome.CANCELLED]
        assert [call.estimated for call in lost] == [True]
        assert events.index(taken_over) < events.index(lost[0])
        assert len({e.sandbox_id for e in events if isinstance(e, SandboxAcquired)}) == 2


async def test_a_replica_that_was_paused_too_long_gives_no_sandbox_away(tmp_path: Path) -> None:
    """What it had counted for its run is counted for whoever took the run over: its leaving makes no room under the
    limit on sandboxes. They are given back when the run has ended there."""
    async with world(tmp_path) as it:
        answers = anyio.Event()

        async def answers_late(request: ModelRequest) -> ModelReply:
            await answers.wait()
            return await echo(request)

        async def asked(times: int) -> None:
            with anyio.fail_after(60):
                while len(it.model.sub_requests) < times:
                    await anyio.lowlevel.checkpoint()

        it.model.sub = answers_late
        async with open_service(it.settings) as first, open_service(it.beside(), serves=True) as second:
            registry = first.registry
            await registry.tenants.ensure_default()
            limits = CallerLimits(sandboxes=5)
            key = await registry.api_keys.create(
                EMBEDDED_TENANT, KeyRequest(name="k", scopes=frozenset({Scope.RUNS}), limits=limits), by=OPERATOR
            )
            caller = await registry.api_keys.authenticate(key.secret)
            run_id = await first.runs.submit(asked_by(await it.request(first, None), caller))
            first.runs.start(run_id)
            await asked(1)
            counted = registry.quotas_of(EMBEDDED_TENANT)
            held = await counted.count(Counted.SANDBOXES, caller.levels[1])
            assert held > 0
            await it.lapse(run_id)
            await asked(2)
            await first.runs.rooms.leases.renew()
            await until_idle(first)
            assert await counted.count(Counted.SANDBOXES, caller.levels[1]) == held
            answers.set()
            assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED
            await until_idle(second)
            assert await counted.count(Counted.SANDBOXES, caller.levels[1]) == 0


async def test_a_wrap_up_that_was_in_flight_is_told_as_uncertain(tmp_path: Path) -> None:
    """A replica that died over the run's last call may have paid for it: whoever takes over says so, and books it."""
    async with world(tmp_path) as it:
        async with open_service(it.settings) as first:
            run_id = await submitted(it, first)
        claimed = await it.journal.claim(run_id, first.runs.rooms.leases.replica, for_s=0)
        spent = RootUnavailable(
            at=first.runs.rooms.now(), purpose=Purpose.TURN, outcome=CallOutcome.BUDGET, message="spent"
        )
        await it.journal.append(run_id, claimed.epoch, spent)
        assert is_wrap_up(decide(replay(await it.events(run_id))))
        lost = charge(wrap_up_hold_id(run_id), 7, run=run_id, model=ROOT, purpose="wrap_up")
        await it.ledger.reserve([lost], [run_account(run_id)], expires_at=first.runs.rooms.now() + 600)
        await it.lapse(run_id)
        async with open_service(it.settings, serves=True) as second:
            await end_of(it, run_id)
            await until_idle(second)
        events = await it.events(run_id)
        assert [event.uncertain_calls for event in events if isinstance(event, RunTakenOver)] == [1]
        assert "uncertain" in (await it.ledger.entries(run_id))[0].flags
        await it.check_books(run_id)


async def test_a_run_whose_replica_comes_back_late_is_charged_once_by_its_journal(tmp_path: Path) -> None:
    """However long after its deadline the next replica starts: who looks for expired holds leaves them to whoever takes
    the run over, so that the ledger says what the journal says."""
    async with world(tmp_path) as it:
        async with open_service(it.settings) as first:
            run_id = await submitted(it, first)
        await it.journal.claim(run_id, first.runs.rooms.leases.replica, for_s=0)
        in_flight = charge(f"{run_id}/t1", 7, run=run_id, model=ROOT, purpose="turn")
        await it.ledger.reserve([in_flight], [run_account(run_id)], expires_at=1.0)
        now = await it.store.now()
        assert await it.ledger.settle_expired(now, unfinished=it.journal.unfinished_of) == 0
        await it.lapse(run_id)
        async with open_service(it.settings, serves=True) as second:
            await end_of(it, run_id)
            await until_idle(second)
        await it.check_books(run_id)
        uncertain = [entry for entry in await it.ledger.entries(run_id) if "uncertain" in entry.flags]
        assert [entry.nano_usd for entry in uncertain] == [7]


async def test_a_renewal_tells_a_replica_that_it_lost_its_run(tmp_path: Path) -> None:
    """Without any write of its own it notices at the next renewal, and stops."""
    async with world(tmp_path) as it:
        it.model.sub = _never
        async with open_service(it.settings) as first:
            run_id = await submitted(it, first)
            first.runs.start(run_id)
            with anyio.fail_after(60):
                while not it.model.sub_requests:
                    await anyio.lowlevel.checkpoint()
            await it.lapse(run_id)
            theirs = await it.journal.claim(run_id, "another", for_s=600)
            await first.runs.rooms.leases.renew()
            await until_idle(first)
            assert len([e for e in await it.events(run_id) if isinstance(e, CallFinished)]) == 1
            with pytest.raises(StaleEpoch):
                await it.journal.append(run_id, theirs.epoch - 1, RunTakenOver(at=0.0, epoch=1))


async def test_only_the_tenure_that_lost_the_run_is_told(tmp_path: Path) -> None:
    """A replica that has claimed a run anew, while its earlier tenure is still leaving, goes on with it."""
    async with world(tmp_path) as it, open_service(it.settings) as service:
        run_id = await submitted(it, service)
        journal, leases = it.journal, Leases("rep_1", for_s=600, hands_over=True)
        told = list[str]()
        await it.lapse(run_id)
        before = await journal.claim(run_id, "rep_1", for_s=600)
        now = await journal.claim(run_id, "rep_1", for_s=600)
        with (
            leases.kept(journal, run_id, before.epoch, lambda: told.append("before")),
            leases.kept(journal, run_id, now.epoch, lambda: told.append("now")),
        ):
            await leases.renew()
        assert told == ["before"]


async def _never(request: ModelRequest) -> ModelReply:
    await anyio.sleep_forever()
    raise AssertionError


async def test_runs_are_handed_over_at_a_safe_point_and_not_cancelled(tmp_path: Path) -> None:
    """A replica that ends waits for the call in flight, which is journalled and settled; the next one goes on with it,
    brings the session's variables back, and nothing was charged as uncertain."""
    async with world(tmp_path) as it:
        may_answer = anyio.Event()

        async def sub(request: ModelRequest) -> ModelReply:
            if len(it.model.sub_requests) == 2:
                await may_answer.wait()
            return await echo(request)

        it.model.sub = sub
        async with open_service(it.settings, serves=True) as first, anyio.create_task_group() as tasks:
            run_id = await submitted(it, first, keeps_session=True)
            first.runs.start(run_id)
            await until(it, run_id, lambda event: isinstance(event, CellFinished))
            with anyio.fail_after(60):
                while len(it.model.sub_requests) < 2:
                    await anyio.lowlevel.checkpoint()
            tasks.start_soon(first.let_go)
            await anyio.lowlevel.checkpoint()
            assert first.runs.live == 1
            may_answer.set()
            await until_idle(first)
            assert not any(isinstance(e, RunTakenOver) for e in await it.events(run_id))
        assert await it.journal.abandoned() == [run_id]
        async with open_service(it.settings, serves=True) as second:
            assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED
            answer = b"".join([chunk async for chunk in second.runs.answer_chunks(run_id)]).decode()
            assert answer == ANSWER
            await until_idle(second)
        events = await it.events(run_id)
        assert [e.uncertain_calls for e in events if isinstance(e, RunTakenOver)] == [0]
        assert [(e.cells, e.missing) for e in events if isinstance(e, NamespaceRebuilt)] == [(1, ())]
        assert all(e.outcome is CallOutcome.OK for e in events if isinstance(e, CallFinished))
        await it.check_books(run_id)


async def test_a_session_that_was_used_elsewhere_is_rebuilt_and_not_mixed_up(tmp_path: Path) -> None:
    """Two replicas run a session's runs in turn: each finds the variables that the other left, and none of its own old
    sandbox; a run that finds the session in use waits for it."""
    async with world(tmp_path) as it, open_service(it.settings) as first, open_service(it.beside()) as second:
        session_id = await first.runs.open_session()
        replies = []
        for service in (first, second, first):
            run_id = await service.runs.submit(await it.request(service, session_id))
            service.runs.start(run_id)
            assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED
            replies.append([e.generation for e in await it.events(run_id) if isinstance(e, SandboxAcquired)])
        assert replies == [[1], [2], [3]]
        both = [await each.runs.submit(await it.request(each, session_id)) for each in (first, second)]
        for service, run_id in zip((first, second), both, strict=True):
            service.runs.start(run_id)
        for run_id in both:
            assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED


async def test_no_run_is_adopted_while_its_replica_keeps_it(tmp_path: Path) -> None:
    """A serving replica beside a live `ask` leaves its run alone, from its submission on."""
    async with (
        world(tmp_path) as it,
        open_service(it.settings) as first,
        open_service(it.settings, serves=True) as second,
    ):
        run_id = await submitted(it, first)
        second.runs.start(run_id)
        await until_idle(second)
        first.runs.start(run_id)
        assert (await end_of(it, run_id)).stop_reason is StopReason.ANSWERED
        assert not any(isinstance(event, RunTakenOver) for event in await it.events(run_id))
        (balance,) = await it.ledger.balances([run_account(run_id)], (Unit.TOKENS,))
        assert balance.held == 0


@dataclass(eq=False)
class _Waiting:
    """A tenant's runs as adopting sees them, which begin to be driven and nothing more."""

    journal: Journal
    begun: anyio.Event = field(default_factory=anyio.Event)

    async def abandoned(self, limit: int) -> list[RunId]:
        return await self.journal.abandoned(limit)

    def is_live(self, run_id: RunId) -> bool:
        return self.begun.is_set()

    def start(self, run_id: RunId) -> None:
        self.begun.set()


async def test_what_a_replica_gives_up_is_looked_for_at_once(tmp_path: Path) -> None:
    """Also by one that would not have looked again for an hour."""
    async with world(tmp_path) as it, open_service(it.settings) as first, anyio.create_task_group() as tasks:
        run_id = await submitted(it, first)
        waiting = _Waiting(it.journal)

        async def tenants() -> list[_Waiting]:
            return [waiting]

        hint = it.store.listen(RUNS_LET_GO)
        tasks.start_soon(partial(keep_adopting, tenants, lambda: 1, hint, every_s=3600))
        claimed = await it.journal.claim(run_id, first.runs.rooms.leases.replica, for_s=600)
        with anyio.fail_after(60):
            while not waiting.begun.is_set():  # hints may be lost, and the listener be slow to hear the first
                await it.journal.let_go(run_id, claimed.epoch)
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


def test_what_is_adopted_is_shared_out_among_tenants() -> None:
    """One run of each tenant in turn, the longest abandoned first, and no more than there is room for."""
    found = [[RunId("a1"), RunId("a2"), RunId("a3")], [], [RunId("c1")]]
    assert next_to_adopt(found, 3) == [(0, "a1"), (2, "c1"), (0, "a2")]
    assert next_to_adopt(found, 0) == []
    assert next_to_adopt([], 3) == []


def test_a_run_that_fails_here_is_tried_again_more_and_more_seldom() -> None:
    """At once the first time, then after pauses that grow up to a minute."""
    attempts, now, run_id = Attempts(), 0.0, RunId("run")
    pauses = []
    for _ in range(10):
        began = now
        while not attempts.is_due(run_id, now):
            now += 0.5
        pauses.append(now - began)
        attempts.note(run_id, now)
    assert pauses[:4] == [0.0, 1.0, 2.0, 4.0]
    assert pauses[-1] == 60.0


def test_a_run_that_comes_no_further_is_given_up() -> None:
    """Only take-overs behind the last thing that came of the run count."""
    taken_over = RunTakenOver(at=0.0, epoch=2)
    came_of_it = CellFinished.__new__(CellFinished)
    in_vain: list[Event] = [came_of_it, *[taken_over] * (MOST_IN_VAIN - 1)]
    check_progress(in_vain)
    assert take_overs_in_vain([taken_over, came_of_it, taken_over]) == 1
    with pytest.raises(RunStalled):
        check_progress([*in_vain, taken_over])
