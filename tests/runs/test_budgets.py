"""Budgets beyond the run's own: what a caller and the code of a run learn of those of session, key and tenant."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.ids import KeyId
from service.ledger.values import Account, Level, Period, Unit
from service.loop.values import AnswerSource, Limits, StopReason
from service.money import parse_usd
from service.runs.calls.errors import BudgetExceeded, BudgetInFlight
from tests.ledger.charges import RUN, accounts_of, charge
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio

KEY = KeyId("key_1")
KEY_DAY = Account(level=Level.KEY, owner=KEY, period=Period.DAY)


async def hold_all(on: Stage, nano_usd: int) -> None:
    """Another call of the key has this much under way."""
    ledger = on.service.ledger
    accounts = accounts_of(ledger, RUN, key=KEY)
    await ledger.reserve([charge("other", nano_usd)], accounts, expires_at=on.service.runs.rooms.now() + 3600)


async def test_a_run_that_its_key_cannot_pay_is_refused_before_it_exists(tmp_path: Path) -> None:
    """With the day's budget spent the refusal names it and when it begins anew; held by others, it may be retried."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        request = replace(await on.request("x"), key_id=KEY)
        await on.service.ledger.set_limit(KEY_DAY, Unit.NANO_USD, parse_usd("1"))
        await hold_all(on, parse_usd("1"))
        with pytest.raises(BudgetInFlight) as in_flight:
            await on.service.runs.submit(request)
        assert in_flight.value.may_be_retried
        await on.service.ledger.settle(charge("other", parse_usd("1")))
        with pytest.raises(BudgetExceeded) as exceeded:
            await on.service.runs.submit(request)
        data = exceeded.value.data
        assert (data["scope"], data["limit"], data["spent"]) == ("key_day", 10**9, 10**9)
        assert data["resets_at"] is not None
        assert await on.service.runs.ls(10) == []


async def test_code_sees_the_tightest_of_all_budgets(tmp_path: Path) -> None:
    """`budget()` tells what the key has left when that is less than what the run has."""
    async with stage(tmp_path, repl("FINAL(budget()['usd'])")) as on:
        await on.service.ledger.set_limit(KEY_DAY, Unit.NANO_USD, parse_usd("0.30"))
        played = await on.play(replace(await on.request("x", Limits(cost=parse_usd("1"))), key_id=KEY))
        assert 0 < float(played.answer) <= 0.30


async def test_each_turn_shows_the_tightest_budget(tmp_path: Path) -> None:
    """The budget line tells what the key has left, once that is less than what the run has, in dollars and cents."""
    async with stage(tmp_path, repl("x = 1"), repl("FINAL(x)")) as on:
        await on.service.ledger.set_limit(KEY_DAY, Unit.NANO_USD, parse_usd("0.30"))
        await on.play(replace(await on.request("x", Limits(cost=parse_usd("1"))), key_id=KEY))
        assert "(all that this run's session, key or tenant has left)" in on.model.last_observation
        await on.play(replace(await on.request("x", Limits(cost=parse_usd("0.1"))), key_id=KEY))
        assert "has left)" not in on.model.last_observation


async def test_a_run_ends_with_an_answer_when_its_key_runs_dry(tmp_path: Path) -> None:
    """Reaching the key's limit stops the run like its own budget would, and the limit holds to the nano-USD."""
    async with stage(tmp_path, repl("answer['content'] = 'so far'\nprint(llm_query('word ' * 2000)[:4])")) as on:
        await on.service.ledger.set_limit(KEY_DAY, Unit.NANO_USD, 20_000_000)
        played = await on.play(replace(await on.request("x" * 5_000, Limits(turns=200)), key_id=KEY))
        assert played.finished.stop_reason is StopReason.BUDGET
        assert played.finished.answer_source in (AnswerSource.EXTRACTED, AnswerSource.PARTIAL)
        (balance,) = await on.service.ledger.balances([KEY_DAY])
        assert (balance.spent, balance.held) == (played.finished.spent, 0)
        assert balance.spent <= 20_000_000
