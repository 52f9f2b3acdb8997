"""Budgets beyond the run's own: what a caller and the code of a run learn of those of session, key and tenant."""

from pathlib import Path

import anyio
import pytest

from service.ids import KeyId
from service.loop.events import RunFinished
from service.loop.values import AnswerSource, Limits, StopReason
from service.money import parse_usd
from service.runs.calls.errors import BudgetExceeded, BudgetInFlight
from service.tenants.values import OPERATOR, CallerLimits
from tests.ledger.charges import RUN, accounts_of, charge
from tests.runs.playing import Stage, asked_by, day_of, repl, stage

pytestmark = pytest.mark.anyio


async def hold_all(on: Stage, nano_usd: int, key: KeyId) -> None:
    """Another call of the key has this much under way."""
    ledger = on.service.runs.rooms.ledger
    accounts = accounts_of(ledger, RUN, key=key)
    await ledger.reserve([charge("other", nano_usd)], accounts, expires_at=on.service.runs.rooms.now() + 3600)


async def test_a_run_that_its_key_cannot_pay_is_refused_before_it_exists(tmp_path: Path) -> None:
    """With the day's budget spent the refusal names it and when it begins anew; held by others, it may be retried."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        caller = await on.caller(CallerLimits(nano_usd_per_day=parse_usd("1")))
        request = asked_by(await on.request("x"), caller)
        await hold_all(on, parse_usd("1"), caller.key.id)
        with pytest.raises(BudgetInFlight) as in_flight:
            await on.service.runs.submit(request)
        assert in_flight.value.may_be_retried
        await on.service.runs.rooms.ledger.settle(charge("other", parse_usd("1")))
        with pytest.raises(BudgetExceeded) as exceeded:
            await on.service.runs.submit(request)
        data = exceeded.value.data
        assert (data["scope"], data["limit"], data["spent"]) == ("key_day", 10**9, 10**9)
        assert data["resets_at"] is not None
        assert await on.service.runs.ls(10) == []


async def test_code_sees_the_tightest_of_all_budgets(tmp_path: Path) -> None:
    """`budget()` tells what the key has left when that is less than what the run has."""
    async with stage(tmp_path, repl("FINAL(budget()['usd'])")) as on:
        caller = await on.caller(CallerLimits(nano_usd_per_day=parse_usd("0.30")))
        played = await on.play(asked_by(await on.request("x", Limits(cost=parse_usd("1"))), caller))
        assert 0 < float(played.answer) <= 0.30


async def test_each_turn_shows_the_tightest_budget(tmp_path: Path) -> None:
    """The budget line tells what the key has left, once that is less than what the run has, in dollars and cents."""
    async with stage(tmp_path, repl("x = 1"), repl("FINAL(x)")) as on:
        caller = await on.caller(CallerLimits(nano_usd_per_day=parse_usd("0.30")))
        await on.play(asked_by(await on.request("x", Limits(cost=parse_usd("1"))), caller))
        assert "(all that this run's session, key or tenant has left)" in on.model.last_observation
        await on.play(asked_by(await on.request("x", Limits(cost=parse_usd("0.1"))), caller))
        assert "has left)" not in on.model.last_observation


async def test_a_run_ends_with_an_answer_when_its_key_runs_dry(tmp_path: Path) -> None:
    """Reaching the key's limit stops the run like its own budget would, and the limit holds to the nano-USD."""
    async with stage(tmp_path, repl("answer['content'] = 'so far'\nprint(llm_query('word ' * 2000)[:4])")) as on:
        caller = await on.caller(CallerLimits(nano_usd_per_day=20_000_000))
        played = await on.play(asked_by(await on.request("x" * 5_000, Limits(turns=200)), caller))
        assert played.finished.stop_reason is StopReason.BUDGET
        assert played.finished.answer_source in (AnswerSource.EXTRACTED, AnswerSource.PARTIAL)
        (balance,) = await on.service.runs.rooms.ledger.balances([day_of(caller)])
        assert (balance.spent, balance.held) == (played.finished.spent, 0)
        assert balance.spent <= 20_000_000


async def test_a_key_gains_nothing_by_making_keys(tmp_path: Path) -> None:
    """Two keys that one made spend its day together: the second's run is refused by the maker's account."""
    async with stage(tmp_path, repl("llm_query('word ' * 2000)")) as on:
        maker = await on.caller(CallerLimits(nano_usd_per_day=20_000_000))
        first, second = [await on.caller(by=maker) for _ in range(2)]
        await on.play(asked_by(await on.request("x", Limits(turns=200)), first))
        spent_by_maker, spent_by_first = await on.service.runs.rooms.ledger.balances([day_of(maker), day_of(first)])
        assert 0 < spent_by_maker.spent == spent_by_first.spent <= 20_000_000
        with pytest.raises(BudgetExceeded):
            await on.play(asked_by(await on.request("x" * 50_000, Limits(turns=200)), second))
        assert (await on.service.runs.rooms.ledger.balances([day_of(maker)]))[0].spent <= 20_000_000


async def test_a_limit_that_is_changed_holds_for_runs_under_way(tmp_path: Path) -> None:
    """A day's limit that the operator sets while a run works stops it within about a second."""
    async with stage(tmp_path, repl("import time; time.sleep(0.05); llm_query('word ' * 200)")) as on:
        caller = await on.caller()
        run_id = await on.service.runs.submit(asked_by(await on.request("x", Limits(turns=1_000)), caller))
        on.service.runs.start(run_id)
        await on.model.was_asked.wait()
        await on.service.registry.api_keys.update(caller.key.id, by=OPERATOR, limits=CallerLimits(nano_usd_per_day=1))
        with anyio.fail_after(60):
            async for entry in on.service.runs.follow(run_id):
                last = entry.event
        assert isinstance(last, RunFinished)
        assert last.stop_reason is StopReason.BUDGET
