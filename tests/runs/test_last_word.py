"""The last word of a run that broke off: never at the expense of other runs, nor of what the provider was paid."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from service.ids import CallId, RunId
from service.journal.codec import encode
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Balance, Unit
from service.loop.events import CallFinished, CancelRequested, RunFinished
from service.loop.values import CallOutcome, Purpose, StopReason, Usage
from service.money import NanoUSD
from service.runs.calls.purse import run_account
from service.runs.driving.last_word import say_last_word
from service.runs.driving.wrap_up import wrap_up_hold_id
from service.runs.recovery.families import member_of
from service.runs.recovery.settling import open_calls
from service.store.bodies import INLINE_BYTES, Bodies, reference_in
from service.store.keys import Keys
from service.store.segments import entries_in
from tests.journal.runs import submitted
from tests.ledger.charges import charge
from tests.runs.playing import SUB, Stage, repl, stage

pytestmark = pytest.mark.anyio


def stopped_clock() -> float:
    raise ArithmeticError("the clock has stopped")


async def held(on: Stage, run_id: RunId, call_id: CallId) -> None:
    """A call of the run was begun, and its end could not be journalled."""
    await on.service.runs.rooms.ledger.reserve(
        [charge(call_id, 7, run=run_id, model=SUB)], [run_account(run_id)], expires_at=on.service.runs.rooms.now() + 600
    )


async def test_a_defect_in_the_last_word_stays_with_its_run(tmp_path: Path) -> None:
    """When saying it fails by a defect nothing is raised, and the run stays unfinished in the store."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        run_id = await on.service.runs.submit(await on.request("x"))
        rooms = on.service.runs.rooms
        assert not await say_last_word(replace(rooms, now=stopped_clock), run_id, ValueError("lost"), None)
        assert (await on.service.runs.show(run_id)).stop_reason is None


async def test_a_run_whose_journal_has_lost_a_blob_ends(tmp_path: Path) -> None:
    """Whoever takes it over cannot go on with it: it ends, without an answer, nobody adopts it again, and what was held
    for a call is booked as uncertain."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        runs, ledger = on.service.runs, on.service.runs.rooms.ledger
        run_id = await runs.submit(replace(await on.request("x"), question="?" * (INLINE_BYTES + 1)))
        await held(on, run_id, CallId(f"{run_id}/e1/turn1.1"))
        reply = await on.service.store.read(
            "XRANGE", Keys(runs.rooms.journal.tenant)("run", run_id, "events"), "-", "+"
        )
        ((_, first),) = entries_in(reply)
        ref = reference_in(first)
        assert ref is not None
        on.service.blobs.path(ref.sha256).unlink()
        runs.start(run_id)
        with anyio.fail_after(60):
            await runs.rooms.journal.wait_until_finished(run_id)
        assert await runs.rooms.journal.has_ended(run_id)
        assert await runs.abandoned(10) == []
        assert await ledger.open_holds() == []
        assert [entry.flags for entry in await ledger.entries(run_id)] == [("uncertain",)]


async def test_a_run_that_cannot_be_folded_ends_all_the_same(tmp_path: Path) -> None:
    """Where a journal makes no sense to the loop, the run ends without an answer instead of being adopted for ever."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        runs = on.service.runs
        run_id = await runs.submit(await on.request("x"))
        events = Keys(runs.rooms.journal.tenant)("run", run_id, "events")
        await on.service.store.write("DEL", events)
        packed = await Bodies(on.service.blobs).pack(encode(CancelRequested(at=1.0)))
        await on.service.store.write("XADD", events, "1-0", "e", packed)
        assert await say_last_word(runs.rooms, run_id, ValueError("it begins with nothing"), None)
        last = (await runs.rooms.events_of(run_id))[-1].event
        assert isinstance(last, RunFinished)
        assert (last.stop_reason, last.answer) == (StopReason.INTERNAL_ERROR, None)


async def test_a_call_whose_end_was_not_journalled_is_charged_before_the_last_word(tmp_path: Path) -> None:
    """It may have been billed: it stands in the journal as cancelled, in the ledger as uncertain, and in what the run
    says that it has spent; what was held for a wrap-up that nobody asked for is given back."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        runs, ledger = on.service.runs, on.service.runs.rooms.ledger
        run_id = await runs.submit(await on.request("x"))
        call_id = CallId(f"{run_id}/e1/turn1.1/a0")
        await held(on, run_id, call_id)
        await held(on, run_id, wrap_up_hold_id(run_id))
        await say_last_word(runs.rooms, run_id, ValueError("lost"), None)
        events = [entry.event for entry in await runs.rooms.events_of(run_id)]
        (lost,) = [event for event in events if isinstance(event, CallFinished)]
        assert (lost.call_id, lost.outcome, lost.cost) == (call_id, CallOutcome.CANCELLED, 7)
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        assert finished.spent == 7
        assert [(entry.call_id, entry.flags) for entry in await ledger.entries(run_id)] == [(call_id, ("uncertain",))]
        (balance,) = await ledger.balances([run_account(run_id)])
        assert (balance.spent, balance.held) == (7, 0)


class Overtaken(Ledger):
    """A ledger that is asked for balances while another replica does something."""

    def __init__(self, on: Stage, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(on.service.store, on.service.runs.rooms.journal.tenant, on.service.runs.rooms.now)
        self.meanwhile = meanwhile

    async def balances(self, accounts: Sequence[Account], units: Sequence[Unit] = (Unit.NANO_USD,)) -> list[Balance]:
        await self.meanwhile()
        return await super().balances(accounts, units)


async def test_a_child_is_not_ended_by_a_replica_that_has_lost_its_root(tmp_path: Path) -> None:
    """One that is paused in the middle of the last word, until another has the root run, writes nothing for the child,
    whose epoch is its own still."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        rooms = on.service.runs.rooms
        run_id = await on.service.runs.submit(await on.request("x"))
        replica, for_s = rooms.leases.replica, rooms.leases.for_s
        fence = rooms.journal.fence(run_id, (await rooms.journal.claim(run_id, replica, for_s=for_s)).epoch)
        child = submitted(parent=run_id)
        await rooms.journal.open_run(child, within=fence)
        ledger = Overtaken(on, lambda: rooms.journal.take_over(run_id))
        assert not await say_last_word(replace(rooms, ledger=ledger), child.run_id, None, fence)
        assert [entry.event for entry in await rooms.events_of(child.run_id)] == [child]


def test_an_unused_hold_that_a_journal_knows_the_call_of_is_used() -> None:
    """A wrap-up whose reply was journalled just before its replica died is settled, although nothing wants it now."""
    run_id = RunId("run_1")
    held_for_it = wrap_up_hold_id(run_id)
    entry = charge(held_for_it, 9, run=run_id, purpose="wrap_up").entry
    call = CallFinished(
        at=1.0,
        call_id=held_for_it,
        purpose=Purpose.WRAP_UP,
        model=entry.model,
        outcome=CallOutcome.OK,
        text="so far",
        usage=Usage(),
        cost=NanoUSD(5),
    )
    silent = member_of((run_id,), ())
    told = replace(silent, calls={held_for_it: call})
    unused = frozenset({held_for_it})
    assert open_calls([entry], [silent], unused=unused, at=1.0) == []
    (found,) = open_calls([entry], [told], unused=unused, at=1.0)
    assert (found.finished, found.is_journalled) == (call, True)
