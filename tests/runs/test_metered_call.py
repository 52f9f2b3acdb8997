"""The metered call against a real ledger: what is held bounds what is spent, whatever happens to the call."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import RunId, TenantId, new_id
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Balance, Level, Period, Unit
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Limits, Usage
from service.models.breaker import FIRST_OPEN_S
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.models.prices import Price
from service.money import NanoUSD
from service.runs.calls.charges import OUTPUT_TOKENS_FLOOR, bound_of
from service.runs.calls.health import ProviderHealth
from service.runs.calls.metered_call import MeteredCalls
from service.runs.calls.purse import run_account
from service.runs.calls.values import Hold, Refused
from service.runs.dispatch.dispatch import Dispatch, Lines
from service.runs.standing import Standing
from service.store.connection import Store, open_store
from service.store.disk_room import DiskRoom
from service.tenants.errors import TenantSuspended
from tests.clock import Clock
from tests.runs.doubles import Journalled, StandInModel, call_of, route_to, rules, standing_of, with_fallbacks

pytestmark = pytest.mark.anyio

DEARER = Price(input=10_000_000_000, cached_input=10_000_000_000, cache_write=10_000_000_000, output=20_000_000_000)


@dataclass
class Suspension:
    """Whether the tenant is suspended."""

    is_suspended: bool = False

    async def require_active(self) -> None:
        if self.is_suspended:
            raise TenantSuspended("the tenant is suspended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    now: Callable[[], float]
    store: Store
    ledger: Ledger
    metered: MeteredCalls
    health: ProviderHealth
    journalled: Journalled
    suspension: Suspension

    async def standing(self, model: StandInModel, limits: Limits) -> Standing:
        standing = standing_of(
            RunId(new_id("run")), model, ledger=self.ledger, limits=limits, deadline_at=self.now() + 60
        )
        await standing.purse.set_limits()
        return standing

    async def scripts_run(self) -> int:
        """How many the server has run; it is this test's own."""
        facts = await self.store.read("INFO", "commandstats")
        assert isinstance(facts, bytes)
        (line,) = (line for line in facts.decode().splitlines() if line.startswith("cmdstat_evalsha:"))
        return int(line.partition("calls=")[2].partition(",")[0])

    async def balance(self, standing: Standing, unit: Unit = Unit.NANO_USD) -> Balance:
        (balance,) = await self.ledger.balances([run_account(standing.run_id)], [unit])
        return balance


@asynccontextmanager
async def bench(directory: Path, now: Callable[[], float] = time.time) -> AsyncIterator[Bench]:
    async with open_store(data_directory=directory, redis_url=None) as store:
        ledger = Ledger(store, TenantId(new_id("ten")), now)
        health = ProviderHealth()
        suspension = Suspension()
        tenant_rules = rules(store, ledger.tenant, suspension.require_active)
        dispatch = Dispatch(tenant_rules, Lines(calls_each_provider=256), ledger, now)
        metered = MeteredCalls(ledger, now, health, dispatch, DiskRoom(directory))
        yield Bench(
            now=now,
            store=store,
            ledger=ledger,
            metered=metered,
            health=health,
            journalled=Journalled(),
            suspension=suspension,
        )


async def test_a_suspended_tenant_makes_no_call_and_holds_nothing(tmp_path: Path) -> None:
    """When its tenant is suspended a call is not made although its money was held, and the hold is given back."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        call = call_of(standing, "c", "x")
        hold = await b.metered.reserve(call, standing.purse)
        assert not isinstance(hold, Refused)
        b.suspension.is_suspended = True
        refused = await b.metered.call(call, standing.purse, b.journalled.append, hold=hold)
        assert isinstance(refused, Refused)
        assert "suspended" in refused.message
        balance = await b.balance(standing)
        assert (balance.spent, balance.held, model.requests) == (0, 0, [])


async def test_two_hundred_racing_calls_never_spend_more_than_the_budget(tmp_path: Path) -> None:
    """With a $0.01 budget and 200 calls at once, spent plus held stays at or below $0.01 and the rest are refused."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        outcomes: list[CallFinished | Refused] = []

        async def one(index: int) -> None:
            call = call_of(standing, f"c{index}", "x" * 100)
            outcomes.append(await b.metered.call(call, standing.purse, b.journalled.append))
            balance = await b.balance(standing)
            assert balance.spent + balance.held <= 10_000_000

        async with anyio.create_task_group() as tasks:
            for index in range(200):
                tasks.start_soon(one, index)
        balance = await b.balance(standing)
        assert balance.held == 0
        assert balance.spent == b.journalled.cost == sum(e.nano_usd for e in await b.ledger.entries(standing.run_id))
        assert {o.outcome for o in outcomes if isinstance(o, Refused)} == {CallOutcome.BUDGET}
        # A call costs 300 micro-USD: the budget holds 33 of them, whatever each held meanwhile.
        assert sum(isinstance(o, CallFinished) for o in outcomes) >= 25


async def test_of_all_who_wait_for_money_only_the_first_asks_again(tmp_path: Path) -> None:
    """A hundred calls on a budget that holds one at a time ask the store some hundreds of times, not thousands."""
    calls = 100
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits())
        bound = bound_of(call_of(standing, "c", "x"), 1_000).nano_usd
        await b.ledger.set_limit(run_account(standing.run_id), Unit.NANO_USD, bound + calls * 20_000)
        outcomes: list[CallOutcome] = []

        async def one(index: int) -> None:
            call = call_of(standing, f"c{index}", "x")
            outcomes.append((await b.metered.call(call, standing.purse, b.journalled.append)).outcome)

        before = await b.scripts_run()
        async with anyio.create_task_group() as tasks:
            for index in range(calls):
                tasks.start_soon(one, index)
        assert outcomes == [CallOutcome.OK] * calls
        assert await b.scripts_run() - before < 20 * calls


async def test_who_leaves_the_line_for_money_does_not_hold_up_the_next(tmp_path: Path) -> None:
    """The first who waits is cancelled: the second gets what the call in flight gives back."""
    is_asked, may_answer = anyio.Event(), anyio.Event()
    model = StandInModel()
    plain = model.answer

    async def answer(request: ModelRequest) -> ModelReply:
        is_asked.set()
        await may_answer.wait()
        return await plain(request)

    model.answer = answer
    async with bench(tmp_path) as b:
        standing = await b.standing(model, Limits())
        bound = bound_of(call_of(standing, "c", "x"), 1_000).nano_usd
        await b.ledger.set_limit(run_account(standing.run_id), Unit.NANO_USD, bound + 100_000)
        outcomes: list[CallOutcome] = []

        async def one(name: str) -> None:
            call = call_of(standing, name, "x")
            outcomes.append((await b.metered.call(call, standing.purse, b.journalled.append)).outcome)

        async def until_waiting(count: int) -> None:
            with anyio.fail_after(60):
                while standing.purse.line.statistics().tasks_waiting + standing.purse.line.locked() < count:
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "in flight")
            await is_asked.wait()
            async with anyio.create_task_group() as impatient:
                impatient.start_soon(one, "gives up")
                await until_waiting(1)
                tasks.start_soon(one, "stays")
                await until_waiting(2)
                impatient.cancel_scope.cancel()
            may_answer.set()
        assert outcomes == [CallOutcome.OK] * 2
        assert (await b.balance(standing)).held == 0


async def test_a_call_that_certainly_cost_nothing_gives_its_hold_back(tmp_path: Path) -> None:
    """A refused request is journalled at no cost and nothing stays held."""

    async def refuse(request: ModelRequest) -> ModelReply:
        raise ModelCallFailed(CallOutcome.REFUSED, "no", may_be_billed=False)

    async with bench(tmp_path) as b:
        standing = await b.standing(StandInModel(refuse), Limits(cost=NanoUSD(10_000_000)))
        finished = await b.metered.call(call_of(standing, "c", "hello"), standing.purse, b.journalled.append)
        assert (finished.outcome, b.journalled.cost) == (CallOutcome.REFUSED, 0)
        balance = await b.balance(standing)
        assert (balance.spent, balance.held) == (0, 0)


async def test_a_call_that_may_have_been_billed_is_booked_at_its_bound(tmp_path: Path) -> None:
    """A reply without usage costs the whole reservation, and is marked as estimated."""

    async def silent(request: ModelRequest) -> ModelReply:
        return ModelReply(text="fine", usage=None)

    async with bench(tmp_path) as b:
        standing = await b.standing(StandInModel(silent), Limits(cost=NanoUSD(10_000_000)))
        call = call_of(standing, "c", "hello")
        finished = await b.metered.call(call, standing.purse, b.journalled.append)
        assert isinstance(finished, CallFinished)
        assert finished.estimated
        assert finished.cost == bound_of(call, 1_000).nano_usd == (await b.balance(standing)).spent


async def test_every_attempt_is_a_reservation_of_its_own(tmp_path: Path) -> None:
    """After a 429 the retry has its own id, and only what it used is spent."""
    model = StandInModel()
    plain = model.answer

    async def once_busy(request: ModelRequest) -> ModelReply:
        if len(model.requests) == 1:
            raise ModelCallFailed(CallOutcome.RATE_LIMITED, "later", retry_after_s=0.0, may_be_billed=False)
        return await plain(request)

    model.answer = once_busy
    async with bench(tmp_path) as b:
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        finished = await b.metered.call(call_of(standing, "c", "hello"), standing.purse, b.journalled.append)
        assert finished.outcome is CallOutcome.OK
        assert [call.call_id.rpartition("/")[2] for call in b.journalled.calls] == ["a0", "a1"]
        assert (await b.balance(standing)).spent == 5 * 1_000 + 5 * 2_000


async def test_a_cancelled_call_is_written_down_and_charged(tmp_path: Path) -> None:
    """Cancelling the task in mid-call books the bound: the provider has been asked and may bill."""
    asked = anyio.Event()

    async def never(request: ModelRequest) -> ModelReply:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with bench(tmp_path) as b:
        standing = await b.standing(StandInModel(never), Limits(cost=NanoUSD(10_000_000)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(b.metered.call, call_of(standing, "c", "hello"), standing.purse, b.journalled.append)
            await asked.wait()
            tasks.cancel_scope.cancel()
        (finished,) = b.journalled.calls
        assert (finished.outcome, finished.estimated) == (CallOutcome.CANCELLED, True)
        balance = await b.balance(standing)
        assert (balance.spent, balance.held) == (finished.cost, 0)
        (entry,) = await b.ledger.entries(standing.run_id)
        assert "uncertain" in entry.flags


async def test_a_call_that_a_defect_ends_is_charged_and_says_so(tmp_path: Path) -> None:
    """An adapter that raises what it must not leaves a record that calls it a defect, and the bound booked."""

    async def defective(request: ModelRequest) -> ModelReply:
        raise LookupError("with payload")

    async with bench(tmp_path) as b:
        standing = await b.standing(StandInModel(defective), Limits(cost=NanoUSD(10_000_000)))
        with pytest.raises(LookupError):
            await b.metered.call(call_of(standing, "c", "hello"), standing.purse, b.journalled.append)
        (finished,) = b.journalled.calls
        assert finished.text == "a defect of the service ended it (LookupError)"
        balance = await b.balance(standing)
        assert (balance.spent, balance.held) == (finished.cost, 0)


async def test_the_output_limit_shrinks_before_a_call_is_refused(tmp_path: Path) -> None:
    """What no longer fits with a long reply is asked for with a shorter one, down to the floor and no further."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        floor = OUTPUT_TOKENS_FLOOR * 2_000
        standing = await b.standing(model, Limits(cost=NanoUSD(280_000 + floor + 10_000)))
        await b.metered.call(call_of(standing, "c0", "hello"), standing.purse, b.journalled.append)
        assert OUTPUT_TOKENS_FLOOR <= model.requests[0].max_output_tokens < 1_000
        assert bound_of(call_of(standing, "c1", "hello"), OUTPUT_TOKENS_FLOOR).nano_usd > 280_000 + floor - 10_000
        refused = await b.metered.call(call_of(standing, "c1", "hello" * 100), standing.purse, b.journalled.append)
        assert isinstance(refused, Refused)
        assert len(model.requests) == 1


async def test_a_model_that_bills_beyond_its_bound_is_booked_in_full_and_stopped(tmp_path: Path) -> None:
    """The overrun is in the ledger, and no further call is made to that model."""

    async def greedy(request: ModelRequest) -> ModelReply:
        return ModelReply(text="!", usage=Usage(input_tokens=1_000_000, output_tokens=1))

    async with bench(tmp_path) as b:
        model = StandInModel(greedy)
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        await b.metered.call(call_of(standing, "c0", "hello"), standing.purse, b.journalled.append)
        refused = await b.metered.call(call_of(standing, "c1", "hello"), standing.purse, b.journalled.append)
        assert isinstance(refused, Refused)
        assert refused.outcome is CallOutcome.REFUSED
        assert (await b.balance(standing)).spent == b.journalled.cost == 1_000_002_000
        (entry,) = await b.ledger.entries(standing.run_id)
        assert "over_estimate" in entry.flags


async def test_settling_a_journalled_call_again_changes_nothing(tmp_path: Path) -> None:
    """Whoever takes a run over may settle all its calls once more."""
    async with bench(tmp_path) as b:
        standing = await b.standing(StandInModel(), Limits(cost=NanoUSD(10_000_000)))
        finished = await b.metered.call(call_of(standing, "c", "hello"), standing.purse, b.journalled.append)
        assert isinstance(finished, CallFinished)
        before = await b.balance(standing)
        await b.metered.settle(finished, standing.run_id)
        assert await b.balance(standing) == before


async def test_the_sub_call_limit_refuses_the_call_after_the_last(tmp_path: Path) -> None:
    """With a limit of three sub-calls the fourth is refused by that limit, and costs nothing."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits(sub_calls=3))
        outcomes = [
            (await b.metered.call(call_of(standing, f"c{i}", "x"), standing.purse, b.journalled.append)).outcome
            for i in range(4)
        ]
        assert outcomes == [CallOutcome.OK] * 3 + [CallOutcome.CALL_LIMIT]
        assert len(model.requests) == 3


async def test_of_calls_reserved_together_a_prefix_is_held_and_nothing_behind_it(tmp_path: Path) -> None:
    """When the third of four does not fit, the fourth is given back although it would: money ends at the tail."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        sizes = (100, 100, 9_000, 100)
        calls = [call_of(standing, f"c{i}", "x" * size) for i, size in enumerate(sizes)]
        holds = await b.metered.reserve_prefix(calls, standing.purse)
        assert [hold.call_id for hold in holds] == [f"{call.stem}/a0" for call in calls[:2]]
        assert (await b.balance(standing)).held == sum(hold.amount.nano_usd for hold in holds)


async def test_a_call_cancelled_before_anything_was_sent_costs_nothing(tmp_path: Path) -> None:
    """Its hold is released, no call is journalled, the model was not asked."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        call = call_of(standing, "c", "hello")
        hold = await b.metered.reserve(call, standing.purse)
        assert not isinstance(hold, Refused)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await b.metered.call(call, standing.purse, b.journalled.append, hold=hold)
        balance = await b.balance(standing)
        assert (balance.spent, balance.held) == (0, 0)
        assert not model.requests
        assert not b.journalled.calls


async def test_a_hold_made_before_a_hand_over_begins_no_call(tmp_path: Path) -> None:
    """Once the gate is shut, a call whose money was held before gives the hold back and never asks the model."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits(cost=NanoUSD(10_000_000)))
        call = call_of(standing, "c", "hello")
        (hold,) = await b.metered.reserve_prefix([call], standing.purse)
        standing.purse.gate.shut()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(b.metered.call, call, standing.purse, b.journalled.append, hold=hold))
            with anyio.fail_after(60):
                while (await b.balance(standing)).held and not model.requests:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        balance = await b.balance(standing)
        assert (balance.spent, balance.held, model.requests) == (0, 0, [])


async def down(request: ModelRequest) -> ModelReply:
    raise ModelCallFailed(CallOutcome.UNAVAILABLE, "down", retry_after_s=0.0, may_be_billed=False)


async def test_a_model_that_is_down_is_left_for_its_fallback(tmp_path: Path) -> None:
    """After the retries the next model of the list is asked; its attempt is priced and recorded under its own name."""
    async with bench(tmp_path) as b:
        first, second = StandInModel(down), StandInModel()
        standing = await b.standing(first, Limits(cost=NanoUSD(10_000_000)))
        fallback = route_to(second, "stand/in-for-it", DEARER)
        call = with_fallbacks(call_of(standing, "c", "hello"), fallback)
        finished = await b.metered.call(call, standing.purse, b.journalled.append)
        assert (finished.outcome, len(first.requests), len(second.requests)) == (CallOutcome.OK, 4, 1)
        assert [(each.model, each.call_id.rpartition("/")[2]) for each in b.journalled.calls] == [
            *(("stand/in", f"a{attempt}") for attempt in range(4)),
            ("stand/in-for-it", "a4"),
        ]
        assert second.requests[0].model == "stand/in-for-it"
        balance = await b.balance(standing)
        assert (balance.spent, balance.held) == (5 * 10_000 + 5 * 20_000, 0)


async def test_a_fallback_that_the_budget_cannot_pay_is_not_asked(tmp_path: Path) -> None:
    """The dearer model needs a reservation of its own; without it the first model's failure stands."""
    async with bench(tmp_path) as b:
        first, second = StandInModel(down), StandInModel()
        standing = await b.standing(first, Limits(cost=NanoUSD(3_000_000)))
        call = with_fallbacks(call_of(standing, "c", "hello"), route_to(second, "dear", DEARER))
        finished = await b.metered.call(call, standing.purse, b.journalled.append)
        assert (finished.outcome, len(second.requests)) == (CallOutcome.UNAVAILABLE, 0)


async def test_a_provider_that_keeps_failing_is_not_asked_and_holds_no_money(tmp_path: Path) -> None:
    """Once shut off a provider gets no calls; the fallback is reserved and asked at once, also through `reserve`."""
    async with bench(tmp_path, Clock()) as b:
        first, second = StandInModel(down), StandInModel()
        standing = await b.standing(first, Limits(cost=NanoUSD(100_000_000)))
        for index in range(2):
            call = with_fallbacks(call_of(standing, f"c{index}", "hello"), route_to(second, "other"))
            await b.metered.call(call, standing.purse, b.journalled.append)
        assert len(first.requests) == 5
        call = with_fallbacks(call_of(standing, "c2", "hello"), route_to(second, "other"))
        assert await b.metered.reserve_prefix([call], standing.purse) == []
        hold = await b.metered.reserve(call, standing.purse)
        assert isinstance(hold, Hold)
        assert hold.route == 1
        finished = await b.metered.call(call, standing.purse, b.journalled.append, hold=hold)
        assert (finished.outcome, len(first.requests), len(second.requests)) == (CallOutcome.OK, 5, 3)
        assert (await b.balance(standing)).held == 0


async def test_a_hold_on_a_provider_that_is_shut_off_is_given_back(tmp_path: Path) -> None:
    """A call whose provider was shut off after its money was held releases it and goes to the fallback."""
    async with bench(tmp_path, Clock()) as b:
        first, second = StandInModel(down), StandInModel()
        standing = await b.standing(first, Limits(cost=NanoUSD(100_000_000)))
        held_call = with_fallbacks(call_of(standing, "early", "hello"), route_to(second, "other"))
        hold = await b.metered.reserve(held_call, standing.purse)
        assert isinstance(hold, Hold)
        for index in range(2):
            call = with_fallbacks(call_of(standing, f"c{index}", "hello"), route_to(second, "other"))
            await b.metered.call(call, standing.purse, b.journalled.append)
        finished = await b.metered.call(held_call, standing.purse, b.journalled.append, hold=hold)
        assert isinstance(finished, CallFinished)
        assert (finished.model, finished.call_id.rpartition("/")[2]) == ("other", "a1")
        assert (await b.balance(standing)).held == 0


async def test_a_short_outage_costs_waiting(tmp_path: Path) -> None:
    """A call without a fallback waits until its provider may be asked again, and then has its answer."""
    model = StandInModel(down)
    async with bench(tmp_path) as b:
        standing = await b.standing(model, Limits(cost=NanoUSD(100_000_000)))
        await b.metered.call(call_of(standing, "c0", "hello"), standing.purse, b.journalled.append)
        plain = StandInModel().answer

        async def up_again(request: ModelRequest) -> ModelReply:
            return await (down if len(model.requests) <= 5 else plain)(request)

        model.answer = up_again
        finished = await b.metered.call(call_of(standing, "c1", "hello"), standing.purse, b.journalled.append)
        assert (finished.outcome, len(model.requests)) == (CallOutcome.OK, 6)


async def test_a_long_outage_is_told_without_asking(tmp_path: Path) -> None:
    """Where no wait within the deadline helps, the call is refused: nothing is reserved, sent or recorded."""
    async with bench(tmp_path, Clock()) as b:
        model = StandInModel(down)
        standing = await b.standing(model, Limits(cost=NanoUSD(100_000_000)))
        for index in range(2):
            hurried = replace(call_of(standing, f"c{index}", "hello"), deadline_at=b.now() + 0.9)
            last = await b.metered.call(hurried, standing.purse, b.journalled.append)
        asked, recorded = len(model.requests), len(b.journalled.calls)
        assert asked == 5
        assert last.outcome is CallOutcome.UNAVAILABLE
        hurried = replace(call_of(standing, "late", "hello"), deadline_at=b.now() + 0.05)
        for refused in (
            await b.metered.call(hurried, standing.purse, b.journalled.append),
            await b.metered.reserve(hurried, standing.purse),
        ):
            assert isinstance(refused, Refused)
            assert refused.outcome is CallOutcome.UNAVAILABLE
            assert "kept failing" in refused.message
        assert (len(model.requests), len(b.journalled.calls)) == (asked, recorded)
        assert (await b.balance(standing)).held == 0


async def test_a_call_cancelled_while_its_provider_is_shut_off_costs_nothing(tmp_path: Path) -> None:
    """The hold that was made before the breaker opened is given back, whatever cancels the wait."""
    async with bench(tmp_path, Clock()) as b:

        async def down(request: ModelRequest) -> ModelReply:
            raise ModelCallFailed(CallOutcome.UNAVAILABLE, "down", retry_after_s=0.0, may_be_billed=False)

        standing = await b.standing(StandInModel(down), Limits(cost=NanoUSD(10_000_000)))
        call = call_of(standing, "held", "hello")
        hold = await b.metered.reserve(call, standing.purse)
        assert not isinstance(hold, Refused)
        for number in range(3):
            hurried = replace(call_of(standing, f"c{number}", "x"), deadline_at=b.now() + 0.9)
            await b.metered.call(hurried, standing.purse, b.journalled.append)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await b.metered.call(call, standing.purse, b.journalled.append, hold=hold)
        balance = await b.balance(standing)
        assert (balance.spent, balance.held) == (0, 0)


async def test_a_call_that_found_no_money_proves_nothing_about_its_provider(tmp_path: Path) -> None:
    """A provider that was shut off stays so until somebody really asked it: a refused reservation is no probe."""
    clock = Clock()
    async with bench(tmp_path, clock) as b:
        model = StandInModel(down)
        rich = await b.standing(model, Limits(cost=NanoUSD(100_000_000)))
        poor = await b.standing(model, Limits(cost=NanoUSD(1)))
        for index in range(2):
            hurried = replace(call_of(rich, f"c{index}", "hello"), deadline_at=b.now() + 0.9)
            await b.metered.call(hurried, rich.purse, b.journalled.append)
        asked = len(model.requests)
        clock.at += FIRST_OPEN_S
        refused = await b.metered.call(call_of(poor, "poor", "hello"), poor.purse, b.journalled.append)
        assert refused.outcome is CallOutcome.BUDGET
        assert "half_open" not in repr(b.health.breakers)
        assert len(model.requests) == asked


@pytest.mark.parametrize("level", [Level.SESSION, Level.KEY, Level.TENANT])
async def test_whoever_pays_can_refuse_a_call(tmp_path: Path, level: Level) -> None:
    """A limit of the session, the key or the tenant holds for a run that has none, and the refusal names it."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        standing = await b.standing(model, Limits())
        account = next(each for each in standing.purse.outer_accounts if each.level is level)
        await b.ledger.set_limit(account, Unit.NANO_USD, 1_000)
        refused = await b.metered.call(call_of(standing, "c", "hello"), standing.purse, b.journalled.append)
        assert isinstance(refused, Refused)
        assert refused.refusal is not None
        assert (refused.outcome, refused.refusal.account) == (CallOutcome.BUDGET, account)
        assert level.value in refused.message
        assert not model.requests


async def test_two_runs_of_a_key_share_its_day(tmp_path: Path) -> None:
    """However many runs race, what they spend together stays within their key's limit for the day."""
    async with bench(tmp_path) as b:
        model = StandInModel()
        account = Account(level=Level.KEY, owner="key_1", period=Period.MONTH)
        standings = [await b.standing(model, Limits()) for _ in range(4)]
        assert all(account in each.purse.outer_accounts for each in standings)
        await b.ledger.set_limit(account, Unit.NANO_USD, 10_000_000)

        async def one(standing: Standing, index: int) -> None:
            call = call_of(standing, f"c{index}", "x" * 100)
            await b.metered.call(call, standing.purse, b.journalled.append)
            (balance,) = await b.ledger.balances([account])
            assert balance.spent + balance.held <= 10_000_000

        async with anyio.create_task_group() as tasks:
            for index in range(64):
                tasks.start_soon(one, standings[index % 4], index)
        (balance,) = await b.ledger.balances([account])
        assert (balance.spent, balance.held) == (b.journalled.cost, 0)
        assert balance.spent >= 7_000_000
