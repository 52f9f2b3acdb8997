"""Sub-calls and child runs of a cell, one or a batch: how they are recorded, and what its end leaves of them."""

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import CellId, RunId, new_id
from service.journal.values import Place
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Balance
from service.loop.events import CallFinished, CellFinished, Event, HostCallAnswered
from service.loop.values import CallOutcome, CellStatus, HostCallKey, Limits, StopReason
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.money import NanoUSD
from service.runs.calls.health import ProviderHealth
from service.runs.calls.metered_call import MeteredCalls
from service.runs.calls.purse import run_account
from service.runs.dispatch.dispatch import Dispatch, Lines
from service.runs.host_calls.children import CHILDREN_AT_ONCE, ChildAnswer, Children, ChildRequest
from service.runs.host_calls.host_calls import HostCalls, OpenCell
from service.runs.host_calls.sub_calls import WINDOW, SubCalls
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import CELL_ENDED, HostCall, HostCallItem
from service.runs.standing import Standing
from service.store.disk_room import DiskRoom
from service.store.riders import Rider
from tests.runs.doubles import ListedJournal, StandInModel, echo, rules, standing_of, usage_of
from tests.runs.playing import repl, stage
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

CELL = OpenCell(wire_id="run.t1.b0", cell_id=CellId("run.t1.b0"))
RERUN = OpenCell(wire_id="run.t1.b0~1", cell_id=CellId("run.t1.b0"), is_rerun=True)
KEY = HostCallKey(cell_id=CELL.cell_id, function="rlm_query_batched", arguments_sha256="0" * 64, ordinal=0)
SOON_S = 60
FOR_THREE = NanoUSD(1_000_000)
"""Covers three of the calls below at what they may cost at most, and no fourth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The host calls of a run whose cell runs, over a real ledger, and a model that answers when it may."""

    calls: HostCalls
    model: StandInModel
    may_answer: anyio.Semaphore
    ledger: Ledger
    standing: Standing
    journal: list[Event]
    sub_calls: SubCalls
    appends: list[int]
    """How many events each took along."""
    on_append: list[Callable[[], None]]

    def finished(self) -> list[CallFinished]:
        return [event for event in self.journal if isinstance(event, CallFinished)]

    async def balance(self) -> Balance:
        (balance,) = await self.ledger.balances([run_account(self.standing.run_id)])
        return balance

    async def items_of_batch_cut_off_when(self, prompts: int, when: Callable[[], bool]) -> list[HostCallItem]:
        """What a batch comes to whose cell ends as soon as that is so; the model answers everything afterwards."""
        items: list[HostCallItem] = []

        async def ask() -> None:
            items.extend(await self.calls.answer(batch(prompts)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(SOON_S):
                while not when():
                    await anyio.lowlevel.checkpoint()
            self.calls.close_cell()
            self.calls.begin_no_more()
            for _ in range(prompts):
                self.may_answer.release()
        return items


@asynccontextmanager
async def bench(stored: Stored, *, answers_at_once: int, cost: NanoUSD | None = None) -> AsyncIterator[Bench]:
    may_answer = anyio.Semaphore(answers_at_once)
    journal = ListedJournal()
    appends: list[int] = []
    on_append: list[Callable[[], None]] = []

    async def answer(request: ModelRequest) -> ModelReply:
        await may_answer.acquire()
        return await echo(request)

    async def record(event: Event, rider: Rider | None = None, *, ahead: Sequence[Event] = ()) -> Place:
        place = await journal.record(event, rider, ahead=ahead)
        appends.append(len(ahead) + 1)
        for act in on_append:
            act()
        return place

    model = StandInModel(answer)
    ledger = Ledger(stored.store, stored.tenant, time.time)
    dispatch = Dispatch(rules(stored.store, stored.tenant), Lines(calls_each_provider=2 * WINDOW), ledger, time.time)
    standing = standing_of(
        RunId(new_id("run")), model, ledger=ledger, limits=Limits(cost=cost), deadline_at=time.time() + 600
    )
    await standing.purse.set_limits()
    async with anyio.create_task_group() as tasks:
        metered = MeteredCalls(ledger, time.time, ProviderHealth(), dispatch, DiskRoom())
        sub_calls = SubCalls(standing, max_output_tokens=10, metered=metered, record=record)
        calls = HostCalls(
            {"llm_query_batched": sub_calls},
            record=record,
            now=time.time,
            recall=journal.recall,
            look_up=journal.look_up,
            tasks=tasks,
        )
        calls.open(CELL)
        yield Bench(
            calls=calls,
            model=model,
            may_answer=may_answer,
            ledger=ledger,
            standing=standing,
            journal=journal,
            sub_calls=sub_calls,
            appends=appends,
            on_append=on_append,
        )
        tasks.cancel_scope.cancel()


def batch(prompts: int, cell: OpenCell = CELL, *, ordinal: int = 0) -> HostCall:
    return HostCall(
        wire_cell_id=cell.wire_id,
        function="llm_query_batched",
        arguments_sha256="0" * 64,
        ordinal=ordinal,
        arguments={"prompts": [f"p{index}" for index in range(prompts)]},
    )


@pytest.mark.parametrize("answered", [0, 1, 100])
async def test_a_batch_of_a_cell_that_ended_finishes_what_is_in_flight_and_no_more(
    stored: Stored, answered: int
) -> None:
    """Of a long batch exactly those are made that were asked for by then; the others say why they were not."""
    async with bench(stored, answers_at_once=answered) as b:
        prompts = answered + 2 * WINDOW
        in_flight = answered + WINDOW
        items = await b.items_of_batch_cut_off_when(prompts, lambda: len(b.model.requests) == in_flight)
        assert [item.value for item in items[:in_flight]] == [f"p{index}" for index in range(in_flight)]
        assert items[in_flight:] == [CELL_ENDED] * (prompts - in_flight)
        assert len(b.model.requests) == len(b.finished()) == in_flight
        assert isinstance(b.journal[-1], HostCallAnswered)
        balance = await b.balance()
        assert (balance.held, balance.spent) == (0, sum(call.cost for call in b.finished()))


@pytest.mark.parametrize("seed", range(12))
async def test_wherever_a_batch_is_cut_off_its_books_balance(stored: Stored, seed: int) -> None:
    """At whatever moment the cell ends, with money for all or for three at once: each item that has a value was made,
    journalled and paid once, no other was made, nothing is held, and a re-run of the cell is answered from the record.
    """
    draw = random.Random(seed)
    prompts = draw.randrange(1, 2 * WINDOW)
    steps = draw.randrange(400)
    cost = draw.choice([None, FOR_THREE])

    def when() -> bool:
        nonlocal steps
        steps -= 1
        return steps < 0

    async with bench(stored, answers_at_once=draw.randrange(prompts + 1), cost=cost) as b:
        items = await b.items_of_batch_cut_off_when(prompts, when)
        failed = Counter(item.failure for item in items if item.failure is not None)
        assert set(failed) <= {CallOutcome.CANCELLED, CallOutcome.BUDGET}
        made = prompts - failed.total()
        assert len(b.model.requests) == made
        origins = {call.origin for call in b.finished() if call.outcome is CallOutcome.OK}
        assert len(origins) == len(b.finished()) == made
        balance = await b.balance()
        assert (balance.held, balance.spent) == (0, sum(call.cost for call in b.finished()))
        assert await b.ledger.open_holds() == []
        b.calls.open(RERUN)
        assert await b.calls.answer(batch(prompts, RERUN)) == items
        assert len(b.model.requests) == made


async def test_a_batch_that_waits_for_money_ends_with_its_cell(stored: Stored) -> None:
    """Three calls hold what there is, and the fourth waits for what they give back: it is not made any more."""
    async with bench(stored, answers_at_once=0, cost=FOR_THREE) as b:
        items = await b.items_of_batch_cut_off_when(9, lambda: len(b.model.requests) == 3)
        assert [item.value for item in items[:3]] == ["p0", "p1", "p2"]
        assert items[3:] == [CELL_ENDED] * 6
        assert (await b.balance()).held == 0


async def test_a_single_call_and_its_record_are_one_append(stored: Stored) -> None:
    """What a call of one prompt was answered stands right behind the call; of a batch it is an append of its own."""
    async with bench(stored, answers_at_once=3) as b:
        (item,) = await b.calls.answer(batch(1))
        assert item.value == "p0"
        assert b.appends == [2]
        assert [type(event) for event in b.journal] == [CallFinished, HostCallAnswered]
        await b.calls.answer(batch(2, ordinal=1))
        assert b.appends == [2, 1, 1, 1]
        b.calls.open(RERUN)
        assert await b.calls.answer(batch(1, RERUN)) == [item]


async def test_a_single_call_that_fails_is_recorded_behind_its_last_attempt(stored: Stored) -> None:
    """Whether another attempt follows is not known when one is journalled, so the record comes when none does."""

    async def refuse(request: ModelRequest) -> ModelReply:
        raise ModelCallFailed(CallOutcome.REFUSED, "no")

    async with bench(stored, answers_at_once=0) as b:
        b.model.answer = refuse
        (item,) = await b.calls.answer(batch(1))
        assert item.failure is CallOutcome.REFUSED
        assert b.appends == [1, 1]


async def test_a_single_call_that_is_recorded_is_answered_though_the_run_is_being_stopped(stored: Stored) -> None:
    """Told to stop right when its call was journalled, it has one record, and the code gets what stands there."""
    async with bench(stored, answers_at_once=1) as b:
        b.on_append.append(b.calls.cancel)
        (item,) = await b.calls.answer(batch(1))
        assert item.value == "p0"
        assert b.appends == [2]


async def test_children_that_were_not_begun_when_their_cell_ended_are_not_begun(stored: Stored) -> None:
    """Those under way are waited for; the others have no run."""
    may_end, asked = anyio.Event(), list[int]()

    async def run_child(key: HostCallKey, request: ChildRequest) -> ChildAnswer:
        asked.append(key.item)
        await may_end.wait()
        return ChildAnswer(stop_reason=StopReason.ANSWERED, text=request.context, message="")

    async with bench(stored, answers_at_once=0) as b:
        submitted = replace(b.standing.submitted, limits=Limits(depth=1))
        children = Children(replace(b.standing, submitted=submitted), sub_calls=b.sub_calls, run_child=run_child)
        call, under_way = batch(CHILDREN_AT_ONCE + 5), UnderWay(KEY)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(children.make, call, under_way)
            with anyio.fail_after(SOON_S):
                while len(asked) < CHILDREN_AT_ONCE:
                    await anyio.lowlevel.checkpoint()
            under_way.beginning.cancel()
            may_end.set()
        assert asked == list(range(CHILDREN_AT_ONCE))
        assert [item.value for item in under_way.items[:CHILDREN_AT_ONCE]] == [f"p{index}" for index in asked]
        assert under_way.items[CHILDREN_AT_ONCE:] == [CELL_ENDED] * 5


async def test_a_batch_of_a_killed_sandbox_ends_with_it(tmp_path: Path) -> None:
    """The run goes on, the calls in flight are answered, paid and recorded, and no other is made."""
    may_answer, is_recorded = anyio.Event(), anyio.Event()

    async def sub(request: ModelRequest) -> ModelReply:
        await (is_recorded if request.messages[-1].content == "after" else may_answer).wait()
        return ModelReply(text="yes", usage=usage_of(request, "yes"))

    def next_turn(request: ModelRequest) -> str:
        may_answer.set()
        return repl("FINAL(llm_query('after'))")

    asks = repl(f"llm_query_batched([f'p{{n}}' for n in range({2 * WINDOW})])")
    settings = {"RLM_MODEL_CONCURRENCY": str(2 * WINDOW)}
    async with stage(tmp_path, asks, next_turn, sub=sub, settings=settings) as on:
        session_id = await on.service.runs.open_session()
        run_id = await on.service.runs.submit(await on.request("x", session_id=session_id))
        on.service.runs.start(run_id)
        with anyio.fail_after(SOON_S):
            while len(on.model.sub_requests) < WINDOW:
                await anyio.lowlevel.checkpoint()
        sitting = on.service.runs.seats.sitting(session_id)
        assert sitting is not None
        assert sitting.session.sandbox is not None
        await sitting.session.sandbox.kill()
        events: list[Event] = []
        async for entry in on.service.runs.follow(run_id):
            events.append(entry.event)
            if isinstance(entry.event, HostCallAnswered):
                is_recorded.set()
        records = [event for event in events if isinstance(event, HostCallAnswered)]
        cells = [event.result.status for event in events if isinstance(event, CellFinished)]
        assert cells[0] is CellStatus.KILLED
        assert [(record.items, len(record.failures)) for record in records] == [(2 * WINDOW, WINDOW), (1, 0)]
        assert len(on.model.sub_requests) == WINDOW + 1
        (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
        assert balance.held == 0
