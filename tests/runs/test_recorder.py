"""The recorder: facts from many tasks, applied in journal order, and never waited for in vain."""

import random
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from service.ids import CallId, RunId, new_id
from service.journal.values import Place, Recorded
from service.loop.events import CallFinished, CancelRequested, DeadlineNeared, DeadlinePassed, Event
from service.loop.values import CallOutcome, Limits, Purpose, Usage
from service.money import NanoUSD
from service.runs.driving.interruption import Interruption
from service.runs.driving.recorder import Recorder
from service.store.errors import StoreFailed
from service.store.fences import NO_FENCE, Fence
from service.store.riders import Rider
from tests.runs.doubles import submitted_run

pytestmark = pytest.mark.anyio

RUN = RunId(new_id("run"))


class SlowJournal:
    """Gives out sequence numbers at once and acknowledges them in any order; the one numbered `fails_at` fails."""

    def __init__(self, seed: int, fails_at: int | None = None) -> None:
        self._random = random.Random(seed)
        self._fails_at = fails_at
        self.events: list[Event] = []

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
        self.events += [*ahead, event]
        seq = len(self.events) + 1
        for _ in range(self._random.randrange(20)):
            await anyio.lowlevel.checkpoint()
        if seq == self._fails_at:
            raise StoreFailed("the reply was lost")
        return seq


def call(number: int) -> CallFinished:
    return CallFinished(
        at=float(number),
        call_id=CallId(f"c{number}"),
        purpose=Purpose.SUB_CALL,
        model="m",
        outcome=CallOutcome.OK,
        text="",
        usage=Usage(),
        cost=NanoUSD(1),
    )


def recorder_over(journal: SlowJournal) -> Recorder:
    submitted = submitted_run(RUN, limits=Limits(), deadline_at=100.0)
    return Recorder(journal, RUN, 1, [Recorded(seq=1, event=submitted)])


@pytest.mark.parametrize("seed", range(20))
async def test_facts_are_applied_in_journal_order_whatever_order_they_return_in(seed: int) -> None:
    """And each `record` returns only when its fact, and all before it, are in the state."""
    journal = SlowJournal(seed)
    recorder = recorder_over(journal)
    applied: list[float] = []
    recorder.on_applied = lambda: applied.append(recorder.state.now)

    async def record(number: int) -> None:
        await recorder.record(call(number))
        assert call(number).at in applied

    async with anyio.create_task_group() as tasks:
        for number in range(1, 31):
            tasks.start_soon(record, number)
    assert applied == [event.at for event in journal.events]
    assert recorder.state.spent.nano_usd == 30


@pytest.mark.parametrize("seed", range(20))
async def test_a_failed_append_ends_every_wait_behind_it(seed: int) -> None:
    """A lost reply leaves a hole that nobody waits for: every task gets the failure or has been applied before it."""
    recorder = recorder_over(SlowJournal(seed, fails_at=5))
    outcomes: list[str] = []

    async def record(number: int) -> None:
        try:
            await recorder.record(call(number))
            outcomes.append("applied")
        except StoreFailed:
            outcomes.append("failed")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(1, 21):
                tasks.start_soon(record, number)
    assert len(outcomes) == 20
    # The three before it are in the journal; whether each was applied before the failure was known is a race.
    assert outcomes.count("applied") <= 3


class GappyJournal(SlowJournal):
    """Leaves a number out, which nobody will ever record: somebody else has written to this run."""

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
        return 1 + await super().append(run_id, epoch, event, rider, ahead=ahead, within=within)


async def test_waiting_for_what_never_comes_can_be_broken_off() -> None:
    """A fact whose predecessor is missing does not hold up the end of the task that records it."""
    recorder = recorder_over(GappyJournal(seed=1))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.record, call(1))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


async def test_what_is_to_be_broken_off_is_told_so_once() -> None:
    """However many reasons to stop come one after the other; and the next command is told anew."""
    recorder = recorder_over(SlowJournal(seed=1))
    interruption, told = Interruption(recorder), list[str]()
    with interruption.by(lambda: told.append("first")):
        await recorder.record(call(1))
        assert told == []
        for reason in (DeadlineNeared(at=1.0), CancelRequested(at=2.0), DeadlinePassed(at=3.0)):
            await recorder.record(reason)
    with interruption.by(lambda: told.append("second")):
        await recorder.record(call(2))
    assert told == ["first", "second"]


async def test_whoever_records_learns_where_the_fact_stands() -> None:
    """Behind those that go ahead of it, in the journal of the recorder's run."""
    recorder = recorder_over(SlowJournal(seed=1))
    assert await recorder.record(call(1)) == Place(run_id=RUN, seq=2)
    assert await recorder.record(call(3), ahead=(call(2),)) == Place(run_id=RUN, seq=4)
