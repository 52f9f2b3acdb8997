"""Host calls: who may make one, what is recorded, and that a record is never paid for again."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
import pytest

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from service.errors import BadRequest
from service.ids import CellId
from service.loop.events import CallFinished, Event, HostCallAnswered
from service.loop.values import CallOutcome
from service.runs.host_calls.answers import KEPT_CHARS
from service.runs.host_calls.host_calls import (
    MAX_UNPAID_CALLS,
    HostCallRefused,
    HostCalls,
    OpenCell,
)
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import HostCall, HostCallItem
from tests.runs.doubles import ListedJournal

pytestmark = pytest.mark.anyio

CELL = OpenCell(wire_id="run.t1.b0", cell_id=CellId("run.t1.b0"))
RERUN = OpenCell(wire_id="run.t1.b0~1", cell_id=CellId("run.t1.b0"), is_rerun=True)


@dataclass(eq=False)
class StandInMaker:
    """Makes a call by answering its prompts in capitals; can be held up."""

    made: list[HostCall] = field(default_factory=list)
    may_go_on: anyio.Event = field(default_factory=anyio.Event)
    started: anyio.Event = field(default_factory=anyio.Event)

    def remember(self, call: CallFinished) -> None:
        """Nothing to remember."""

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        self.made.append(call)
        self.started.set()
        await self.may_go_on.wait()
        if call.arguments.get("bad"):
            raise BadRequest("prompts must be a list of strings")
        under_way.items += [
            HostCallItem(value=prompt.upper())
            if prompt != "fail"
            else HostCallItem(failure=CallOutcome.TIMED_OUT, message="too slow")
            for prompt in call.arguments["prompts"]
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    calls: HostCalls
    maker: StandInMaker
    journal: ListedJournal


@asynccontextmanager
async def bench(
    recorded: list[Event] | None = None, *, kept_chars: int | None = None, most_unpaid: int = MAX_UNPAID_CALLS
) -> AsyncIterator[Bench]:
    journal = ListedJournal(recorded or [])
    maker = StandInMaker()
    async with anyio.create_task_group() as tasks:
        calls = HostCalls(
            {
                "llm_query": maker,
                "llm_query_batched": maker,
                "rlm_query": maker,
                "rlm_query_batched": maker,
                "budget": maker,
            },
            record=journal.record,
            now=lambda: 0.0,
            recall=journal.recall,
            look_up=journal.look_up,
            tasks=tasks,
            kept_chars=kept_chars,
            most_unpaid=most_unpaid,
        )
        calls.open(CELL)
        yield Bench(calls=calls, maker=maker, journal=journal)
        tasks.cancel_scope.cancel()


def call(*prompts: str, wire_cell_id: str = CELL.wire_id, ordinal: int = 0, bad: bool = False) -> HostCall:
    arguments = {"prompts": list(prompts)} | ({"bad": True} if bad else {})
    digest = hashlib.sha256(json.dumps(arguments).encode()).hexdigest()
    return HostCall(
        wire_cell_id=wire_cell_id,
        function="llm_query_batched",
        arguments_sha256=digest,
        ordinal=ordinal,
        arguments=arguments,
    )


async def test_an_answer_is_journalled_before_the_code_sees_it() -> None:
    """The record holds the values, the failures and how many items there were."""
    async with bench() as b:
        b.maker.may_go_on.set()
        items = await b.calls.answer(call("a", "fail"))
        assert [item.value for item in items] == ["A", None]
        (event,) = b.journal
        assert isinstance(event, HostCallAnswered)
        assert (event.failures, event.items) == (("timed_out",), 2)


async def test_a_recorded_call_is_answered_without_making_it() -> None:
    """A re-run gets what the journal holds, values and failures alike."""
    async with bench() as first:
        first.maker.may_go_on.set()
        items = await first.calls.answer(call("a", "fail"))
    async with bench(first.journal) as second:
        second.calls.open(RERUN)
        assert await second.calls.answer(call("a", "fail", wire_cell_id=RERUN.wire_id)) == items
        assert second.maker.made == []
        assert not second.calls.has_diverged


async def test_a_cell_that_a_crash_cut_short_is_answered_from_its_records() -> None:
    """The open cell of a run that is taken over asks again and pays nothing again."""
    async with bench() as first:
        first.maker.may_go_on.set()
        items = await first.calls.answer(call("a"))
    async with bench() as second:
        async for place, event in first.journal.recall():
            await second.calls.remember(event, place)
        second.calls.open(CELL)
        assert await second.calls.answer(call("a")) == items
        assert second.maker.made == []


async def test_calls_that_come_to_nothing_are_not_kept_without_bound() -> None:
    """Past the limit they are refused unrecorded; calls that succeed are not counted."""
    async with bench() as b:
        b.maker.may_go_on.set()
        await b.calls.answer(call("good"))
        for ordinal in range(MAX_UNPAID_CALLS):
            await b.calls.answer(call("fail", ordinal=ordinal))
        with pytest.raises(HostCallRefused, match="came to nothing"):
            await b.calls.answer(call("fail", ordinal=MAX_UNPAID_CALLS))
        assert len(b.journal) == MAX_UNPAID_CALLS + 1


async def test_a_rerun_that_asks_something_new_diverges_and_calls_nobody() -> None:
    """No model is called for a call that the cell did not make when it first ran."""
    async with bench() as b:
        b.calls.open(RERUN)
        (item,) = await b.calls.answer(call("new", wire_cell_id=RERUN.wire_id))
        assert item.diverged
        assert b.calls.has_diverged
        assert b.maker.made == []


async def test_the_same_call_under_way_is_made_once() -> None:
    """A sandbox that lost its connection and asks again gets the answer of the call that is under way."""
    async with bench() as b:
        answers: list[list[HostCallItem]] = []

        async def ask() -> None:
            answers.append(await b.calls.answer(call("a")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
            await b.maker.started.wait()
            b.maker.may_go_on.set()
        assert answers == [[HostCallItem(value="A")]] * 2
        assert len(b.maker.made) == 1


async def test_losing_the_asker_does_not_cancel_the_call() -> None:
    """The call goes on when the request that asked is cancelled, and its answer waits for the next who asks."""
    async with bench() as b:
        async with anyio.create_task_group() as asker:
            asker.start_soon(b.calls.answer, call("a"))
            await b.maker.started.wait()
            asker.cancel_scope.cancel()
        b.maker.may_go_on.set()
        assert await b.calls.answer(call("a")) == [HostCallItem(value="A")]
        assert len(b.maker.made) == 1


async def test_equal_calls_with_different_ordinals_are_different_calls() -> None:
    """A loop that asks the same prompt twice gets two calls."""
    async with bench() as b:
        b.maker.may_go_on.set()
        await b.calls.answer(call("a", ordinal=0))
        await b.calls.answer(call("a", ordinal=1))
        assert len(b.maker.made) == 2


@pytest.mark.parametrize("open_cell", [None, OpenCell(wire_id="run.t2.b0", cell_id=CellId("run.t2.b0"))])
async def test_a_call_without_its_own_open_cell_is_refused(open_cell: OpenCell | None) -> None:
    """Between cells, and in another cell, a leftover thread can spend nothing."""
    async with bench() as b:
        b.calls.close_cell()
        if open_cell is not None:
            b.calls.open(open_cell)
        with pytest.raises(HostCallRefused):
            await b.calls.answer(call("a"))
        assert b.maker.made == []


async def test_cancelling_ends_calls_in_flight_and_refuses_later_ones() -> None:
    """Both come back as cancelled items, and only the one that was made is recorded."""
    async with bench() as b:
        answers: list[list[HostCallItem]] = []

        async def ask() -> None:
            answers.append(await b.calls.answer(call("a")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await b.maker.started.wait()
            b.calls.cancel()
        await b.calls.wait_until_idle()
        later = await b.calls.answer(call("later"))
        assert [answers[0][0].failure, later[0].failure] == [CallOutcome.CANCELLED] * 2
        assert len(b.journal) == len(b.maker.made) == 1


async def test_arguments_of_the_wrong_shape_are_refused_and_not_recorded() -> None:
    """The sentence reaches the caller; the next call with good arguments is made."""
    async with bench() as b:
        b.maker.may_go_on.set()
        with pytest.raises(BadRequest, match="list of strings"):
            await b.calls.answer(call("a", bad=True))
        assert b.journal == []
        assert (await b.calls.answer(call("a")))[0].value == "A"


async def test_an_answer_that_is_kept_no_longer_comes_from_the_journal() -> None:
    """A cell may be answered without end: what does not fit into memory is made once all the same, and answered again
    from its record, in the same run and in a re-run."""
    prompts = ["x" * 100_000 + str(number) for number in range(5)]
    async with bench(kept_chars=250_000) as it:
        it.maker.may_go_on.set()
        answers = [await it.calls.answer(call(prompt)) for prompt in prompts]
        assert [await it.calls.answer(call(prompt)) for prompt in prompts] == answers
        assert len(it.maker.made) == len(prompts)
        recorded = it.journal
    async with bench(recorded, kept_chars=250_000) as it:
        it.calls.open(replace(CELL, wire_id="again", is_rerun=True))
        again = [await it.calls.answer(call(prompt, wire_cell_id="again")) for prompt in prompts]
        assert again == answers
        assert it.maker.made == []


async def test_answers_that_are_kept_no_longer_are_read_one_by_one() -> None:
    """In whatever order they are asked for, the journal is gone through for a re-run alone, and then once: each is read
    from its own place."""
    prompts = ["x" * 100_000 + str(number) for number in range(5)]
    backwards = prompts[::-1]
    async with bench(kept_chars=0) as it:
        it.maker.may_go_on.set()
        answers = {prompt: await it.calls.answer(call(prompt)) for prompt in prompts}
        assert {prompt: await it.calls.answer(call(prompt)) for prompt in backwards} == answers
        assert (it.journal.recalls, it.journal.look_ups) == (0, len(prompts))
        it.calls.open(RERUN)
        for order in (backwards, prompts):
            again = {prompt: await it.calls.answer(call(prompt, wire_cell_id=RERUN.wire_id)) for prompt in order}
            assert again == answers
        assert (it.journal.recalls, it.journal.look_ups) == (1, 3 * len(prompts))


async def test_a_rerun_that_asks_for_much_at_once_goes_through_the_journal_once() -> None:
    """Who asks while its records are read waits for them."""
    async with bench() as first:
        first.maker.may_go_on.set()
        for number in range(5):
            await first.calls.answer(call(str(number)))
    async with bench(first.journal) as second:
        second.calls.open(RERUN)
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(second.calls.answer, call(str(number), wire_cell_id=RERUN.wire_id))
        assert (second.journal.recalls, second.maker.made, second.calls.has_diverged) == (1, [], False)


async def test_whoever_asks_before_a_rerun_has_recalled_waits_in_the_line_of_those_who_look_up() -> None:
    """Nobody knows yet which answers memory will not keep, and each that it does not is one asker's own."""
    async with bench() as first:
        first.maker.may_go_on.set()
        await first.calls.answer(call("kept"))
        assert not first.calls.must_look_up(call("kept"))
    async with bench(first.journal) as second:
        asked = call("kept", wire_cell_id=RERUN.wire_id)
        assert not second.calls.must_look_up(asked)
        second.calls.open(RERUN)
        assert second.calls.must_look_up(asked)
        await second.calls.answer(asked)
        assert not second.calls.must_look_up(asked)


async def test_asking_once_more_for_what_is_kept_no_longer_comes_to_an_end() -> None:
    """A live cell may have a journalled answer read again so many times; a re-run has it read as often as it asks."""
    async with bench(kept_chars=0, most_unpaid=3) as it:
        it.maker.may_go_on.set()
        asked = call("x" * 100_000)
        await it.calls.answer(asked)
        for _ in range(3):
            await it.calls.answer(asked)
        with pytest.raises(HostCallRefused, match="came to nothing"):
            await it.calls.answer(asked)
        it.calls.open(RERUN)
        for _ in range(5):
            await it.calls.answer(replace(asked, wire_cell_id=RERUN.wire_id))
        assert (it.journal.look_ups, len(it.maker.made)) == (8, 1)


async def test_a_record_that_the_journal_lost_is_refused() -> None:
    """Nothing is made again under a key that was answered."""
    async with bench(kept_chars=0) as it:
        it.maker.may_go_on.set()
        await it.calls.answer(call("x" * 100_000))
        it.journal.clear()
        with pytest.raises(HostCallRefused, match="no longer there"):
            await it.calls.answer(call("x" * 100_000))
        assert len(it.maker.made) == 1


async def test_a_cell_that_is_answered_without_end_takes_a_bounded_part_of_memory() -> None:
    """Of two hundred megabytes of answers to one cell no more stays than a run may keep, and what one call takes."""
    size = 8 << 20
    async with bench(kept_chars=KEPT_CHARS) as it:
        it.maker.may_go_on.set()
        restart_peak()
        before = resident_bytes()
        for number in range(25):
            await it.calls.answer(call("x" * size + str(number)))
            it.maker.made.clear()
            it.journal.clear()
        assert peak_bytes() - before < KEPT_CHARS + 10 * size
