"""Direct calls: one budgeted completion, journalled as a run that nobody drives."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest
from service.ids import CallId, KeyId, RunId, new_id
from service.journal.redis_journal import Journal
from service.journal.values import RunIdTaken
from service.ledger.values import Account, Level, Period
from service.loop.events import CallFinished, Event, RunFinished, RunSubmitted
from service.loop.values import CallOutcome, Message, Purpose, StopReason
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.money import NanoUSD
from service.runs.calls.charges import settled_charge
from service.runs.calls.errors import BudgetExceeded
from service.runs.calls.purse import run_account
from service.runs.calls.values import TextListener
from service.runs.direct.direct_calls import DirectCalls
from service.runs.direct.values import DirectCallFailed, DirectRequest
from service.store.blobs import Blobs
from service.store.errors import StoreFailed
from service.store.fences import NO_FENCE, Fence
from service.store.riders import Rider
from service.tenants.values import CallerLimits
from tests.runs.doubles import usage_of
from tests.runs.playing import SUB, Stage, day_of, stage

pytestmark = pytest.mark.anyio

KEY = KeyId("key_1")
KEY_DAY = Account(level=Level.KEY, owner=KEY, period=Period.DAY)


def direct_calls(on: Stage) -> DirectCalls:
    return DirectCalls(on.service.runs.rooms)


def request_of(text: str, **changes: object) -> DirectRequest:
    request = DirectRequest(
        model=SUB, messages=(Message(role="user", content=text),), max_output_tokens=1_000, key_id=KEY
    )
    return replace(request, **changes)  # type: ignore[arg-type]


async def refuse(request: ModelRequest) -> ModelReply:
    raise ModelCallFailed(CallOutcome.REFUSED, "no such thing", may_be_billed=False)


async def test_a_direct_call_is_a_run_that_is_listed_and_charged(tmp_path: Path) -> None:
    """Its reply is the run's answer, its cost the run's, the key's and the report's; nothing stays held."""
    async with stage(tmp_path) as on:
        answer = await direct_calls(on).complete(request_of("hello"))
        assert (answer.text, answer.model, answer.finish_reason) == ("hello", SUB, "stop")
        (view,) = await on.service.runs.ls(10)
        assert (view.run_id, view.stop_reason, view.spent) == (answer.run_id, StopReason.ANSWERED, answer.spent)
        assert b"".join([chunk async for chunk in on.service.runs.answer_chunks(answer.run_id)]) == b"hello"
        for balance in await on.service.runs.rooms.ledger.balances([run_account(answer.run_id), KEY_DAY]):
            assert (balance.spent, balance.held) == (answer.spent, 0)
        events = [entry.event for entry in await on.service.runs.rooms.events_of(answer.run_id)]
        assert [type(event) for event in events] == [RunSubmitted, CallFinished, RunFinished]
        assert answer.spent > 0
        (entry,) = await on.service.runs.rooms.ledger.entries(answer.run_id)
        assert (entry.purpose, entry.nano_usd) == ("direct", answer.spent)


async def test_a_direct_call_without_money_asks_nobody_and_leaves_no_run(tmp_path: Path) -> None:
    """Whether the key's day or its own limit does not cover it, the account is named, nothing is listed, and no limit
    of a run that never was is kept."""
    async with stage(tmp_path) as on:
        with pytest.raises(BudgetExceeded) as own:
            await direct_calls(on).complete(request_of("hello", cost_limit=NanoUSD(10)))
        assert own.value.data["scope"] == "run"
        caller = await on.caller(CallerLimits(nano_usd_per_day=10))
        with pytest.raises(BudgetExceeded) as days:
            await direct_calls(on).complete(
                replace(request_of("hello", cost_limit=NanoUSD(10**9)), key_id=caller.key.id)
            )
        assert days.value.data["scope"] == "key_day"
        assert await on.service.runs.ls(10) == []
        assert await on.service.store.read("KEYS", "rlm:{default}:limits:run:*") == []
        assert not on.server.calls


async def test_racing_direct_calls_stay_within_their_key(tmp_path: Path) -> None:
    """Of a hundred at once, those that are answered cost together at most what the key may spend in a day."""
    async with stage(tmp_path) as on:
        caller = await on.caller(CallerLimits(nano_usd_per_day=2_000_000))
        spent: list[int] = []

        async def one(index: int) -> None:
            with contextlib.suppress(BudgetExceeded):
                request = replace(request_of(f"{index} " * 50), key_id=caller.key.id)
                spent.append((await direct_calls(on).complete(request)).spent)

        async with anyio.create_task_group() as group:
            for index in range(100):
                group.start_soon(one, index)
        (balance,) = await on.service.runs.rooms.ledger.balances([day_of(caller)])
        assert (balance.spent, balance.held) == (sum(spent), 0)
        assert 0 < sum(spent) <= 2_000_000


async def test_the_reply_is_heard_as_it_comes_and_whole(tmp_path: Path) -> None:
    """What the listener is told adds up to the reply, whether the adapter streams or not."""
    async with stage(tmp_path) as on:
        heard: list[str] = []
        answer = await direct_calls(on).complete(request_of("tell me more"), TextListener(heard.append))
        assert "".join(heard) == answer.text == "tell me more"


async def test_a_model_that_refuses_ends_its_run_and_says_why(tmp_path: Path) -> None:
    """The error names the run, which ended as failed and cost nothing."""
    async with stage(tmp_path, sub=refuse) as on:
        with pytest.raises(DirectCallFailed) as failed:
            await direct_calls(on).complete(request_of("hello"))
        view = await on.service.runs.show(RunId(str(failed.value.data["run_id"])))
        assert (view.stop_reason, view.spent) == (StopReason.MODEL_FAILED, 0)


async def test_a_cancelled_direct_call_is_charged_and_over(tmp_path: Path) -> None:
    """Cancelled in mid-call its run ends as cancelled, with the bound booked: the provider may bill."""
    asked = anyio.Event()

    async def never(request: ModelRequest) -> ModelReply:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    run_id = RunId(new_id("run"))
    async with stage(tmp_path, sub=never) as on:
        async with anyio.create_task_group() as group:
            group.start_soon(direct_calls(on).complete, request_of("hello"), None, run_id)
            await asked.wait()
            group.cancel_scope.cancel()
        view = await on.service.runs.show(run_id)
        (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
        assert view.stop_reason is StopReason.CANCELLED
        assert (balance.spent, balance.held) == (view.spent, 0)
        assert view.spent > 0


async def test_a_second_call_of_one_id_takes_nothing_from_the_first(tmp_path: Path) -> None:
    """It is refused, because the run is there; the one in flight keeps its hold, and is booked when it is answered."""
    asked, may_answer = anyio.Event(), anyio.Event()

    async def slow(request: ModelRequest) -> ModelReply:
        asked.set()
        await may_answer.wait()
        return ModelReply(text="hello", usage=usage_of(request, "hello"))

    run_id = RunId(new_id("run"))
    async with stage(tmp_path, sub=slow) as on:
        async with anyio.create_task_group() as group:
            group.start_soon(direct_calls(on).complete, request_of("hello"), None, run_id)
            await asked.wait()
            with pytest.raises(RunIdTaken):
                await direct_calls(on).complete(request_of("hello"), None, run_id)
            (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
            assert balance.held > 0
            may_answer.set()
        view = await on.service.runs.show(run_id)
        (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
        assert view.spent > 0
        assert (balance.spent, balance.held) == (view.spent, 0)


async def test_a_call_of_another_replica_takes_no_place_here(tmp_path: Path) -> None:
    """A second call of one id, which another replica makes, is refused, and no turn at the provider stays taken."""
    async with stage(tmp_path) as on:
        rooms = on.service.runs.rooms
        answer = await direct_calls(on).complete(request_of("hello"))
        first = (await rooms.events_of(answer.run_id))[0].event
        assert isinstance(first, RunSubmitted)
        free = rooms.dispatch.lines.calls.free("openai")
        for _ in range(2):
            run_id = RunId(new_id("run"))
            await rooms.journal.open_run(replace(first, run_id=run_id), keeper="rep_other", for_s=600)
            with pytest.raises(RunIdTaken):
                await direct_calls(on).complete(request_of("hello"), None, run_id)
            assert rooms.dispatch.lines.calls.free("openai") == free
            assert not rooms.dispatch.lines.calls.providers


async def test_a_direct_call_whose_replica_died_is_ended_by_the_next(tmp_path: Path) -> None:
    """Driving its run asks no model: a journalled reply is its answer, else it failed."""
    async with stage(tmp_path) as on:
        answer = await direct_calls(on).complete(request_of("hello"))
        events = [entry.event for entry in await on.service.runs.rooms.events_of(answer.run_id)]
        submitted, call = events[0], events[1]
        assert isinstance(submitted, RunSubmitted)
        assert isinstance(call, CallFinished)
        assert call.purpose is Purpose.DIRECT
        asked = len(on.server.calls)
        for has_reply in (False, True):
            run_id = RunId(new_id("run"))
            rooms = on.service.runs.rooms
            await rooms.journal.open_run(replace(submitted, run_id=run_id))
            if has_reply:
                again = replace(call, call_id=CallId(f"{run_id}/direct/a0"))
                charge = settled_charge(again, run_id)
                await rooms.ledger.reserve([charge], [run_account(run_id)], expires_at=rooms.now() + 3600)
                await rooms.journal.append(run_id, 1, again)
            on.service.runs.start(run_id)
            finished = [entry.event async for entry in on.service.runs.follow(run_id)][-1]
            assert isinstance(finished, RunFinished)
            assert finished.stop_reason is (StopReason.ANSWERED if has_reply else StopReason.MODEL_FAILED)
            assert (finished.spent > 0) == has_reply
        assert len(on.server.calls) == asked


class Forgetful(Journal):
    """A journal whose store is away when a call is answered, and back right after."""

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
        raise StoreFailed("the store is away")


async def test_a_reply_that_could_not_be_journalled_is_no_answer(tmp_path: Path) -> None:
    """The run is left to whoever takes it over, who charges the call as uncertain and says that it failed."""
    run_id = RunId(new_id("run"))
    async with stage(tmp_path) as on:
        rooms = on.service.runs.rooms
        journal = Forgetful(on.service.store, Blobs(tmp_path / "blobs"), rooms.journal.tenant)
        with pytest.raises(StoreFailed):
            await DirectCalls(replace(rooms, journal=journal)).complete(request_of("hello"), None, run_id)
        assert [type(entry.event) for entry in await rooms.events_of(run_id)] == [RunSubmitted]
        await journal.let_go(run_id, 1)
        on.service.runs.start(run_id)
        finished = [entry.event async for entry in on.service.runs.follow(run_id)][-1]
        (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
        assert isinstance(finished, RunFinished)
        assert finished.stop_reason is StopReason.MODEL_FAILED
        assert (balance.spent, balance.held) == (finished.spent, 0)
        assert finished.spent > 0


async def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    """No messages, no tokens, or too much time."""
    async with stage(tmp_path) as on:
        for changes in ({"messages": ()}, {"max_output_tokens": 0}, {"deadline_s": 1e9}):
            with pytest.raises(BadRequest):
                await direct_calls(on).complete(request_of("hello", **changes))
