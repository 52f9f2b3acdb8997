"""The ledger, rule by rule. `test_ledger_model` throws everything at it at once."""

from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest, NotFound
from service.ids import CallId, RunId
from service.ledger.errors import ReservationConflict
from service.ledger.redis_ledger import Ledger
from service.ledger.script_calls import LARGEST_AMOUNT, MOST_AT_ONCE
from service.ledger.values import Account, Level, Period, Refusal, Unit, UsageTotal
from service.store.connection import open_store
from service.store.embedded import SOCKET
from tests.cutting_proxy import cutting_proxy
from tests.ledger.charges import (
    DAY_S,
    KEY,
    NOON,
    RUN,
    RUN_ACCOUNT,
    SESSION_ACCOUNT,
    accounts_of,
    charge,
    hold,
    none_of,
)
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio
MONEY = Unit.NANO_USD


class Clock:
    def __init__(self) -> None:
        self.now = NOON


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(stored: Stored, clock: Clock) -> Ledger:
    return Ledger(stored.store, stored.tenant, lambda: clock.now)


async def balance(ledger: Ledger, account: Account, unit: Unit = MONEY) -> tuple[int, int]:
    (found,) = await ledger.balances([account], [unit])
    return found.spent, found.held


def key_account(period: Period) -> Account:
    return Account(level=Level.KEY, owner=KEY, period=period)


def tenant_account(ledger: Ledger, period: Period) -> Account:
    return Account(level=Level.TENANT, owner=ledger.tenant, period=period)


async def test_a_charge_is_held_then_replaced_by_what_was_used(ledger: Ledger) -> None:
    """At every level the hold counts until it is settled, and then only what was spent does."""
    assert await hold(ledger, charge("c", 10, tokens=(80, 0, 20))) is None
    for account in accounts_of(ledger, RUN):
        assert await balance(ledger, account) == (0, 10)
    assert await ledger.settle(charge("c", 4, tokens=(50, 0, 10)))
    for account in accounts_of(ledger, RUN):
        assert await balance(ledger, account) == (4, 0)
        assert await balance(ledger, account, Unit.TOKENS) == (60, 0)
        assert await balance(ledger, account, Unit.SUB_CALLS) == (1, 0)
    assert await ledger.entries(RUN) == [charge("c", 4, tokens=(50, 0, 10)).entry]
    assert await ledger.open_holds() == []


async def test_a_released_hold_costs_nothing_and_resolves_once(ledger: Ledger) -> None:
    """After a release nothing is held or spent, and another release does nothing."""
    await hold(ledger, charge("c", 10))
    assert await ledger.release([CallId("c")]) == 1
    assert await ledger.release([CallId("c")]) == 0
    assert await balance(ledger, RUN_ACCOUNT) == (0, 0)
    assert await ledger.entries(RUN) == []


async def test_a_call_that_was_made_after_its_hold_was_given_back_is_booked(ledger: Ledger) -> None:
    """The provider was paid: it is booked once, in full, where it had been held, flagged, and beyond a limit too; what
    comes next is refused."""
    await ledger.set_limit(RUN_ACCOUNT, MONEY, 10)
    await hold(ledger, charge("c", 8))
    await ledger.release([CallId("c")])
    await hold(ledger, charge("d", 7))
    assert await ledger.settle(charge("c", 6))
    assert not await ledger.settle(charge("c", 6))
    assert await balance(ledger, RUN_ACCOUNT) == (6, 7)
    assert [(entry.call_id, entry.nano_usd, entry.flags) for entry in await ledger.entries(RUN)] == [
        ("c", 6, ("late",))
    ]
    assert await ledger.open_holds() == ["d"]
    assert await hold(ledger, charge("e", 1)) is not None


async def test_a_repeat_finds_its_hold_and_another_charge_does_not(ledger: Ledger) -> None:
    """The same charge again is the same hold; the id with other amounts or accounts, or resolved, is a conflict."""
    await hold(ledger, charge("c", 10))
    assert await hold(ledger, charge("c", 10)) is None
    assert await balance(ledger, RUN_ACCOUNT) == (0, 10)
    with pytest.raises(ReservationConflict, match="other amounts"):
        await hold(ledger, charge("c", 11))
    with pytest.raises(ReservationConflict, match="other amounts"):
        await hold(ledger, charge("c", 10), accounts=(RUN_ACCOUNT,))
    await ledger.settle(charge("c", 10))
    with pytest.raises(ReservationConflict, match="resolved"):
        await hold(ledger, charge("c", 10))
    with pytest.raises(NotFound):
        await ledger.settle(charge("never", 1))
    with pytest.raises(NotFound):
        await ledger.release([CallId("never")])


@pytest.mark.parametrize("place", range(6))
async def test_every_level_refuses_by_itself_and_says_so(ledger: Ledger, place: int) -> None:
    """Whichever account is full, nothing is held on any, and the refusal names it with its figures."""
    account = accounts_of(ledger, RUN)[place]
    await ledger.set_limit(account, MONEY, 10)
    await hold(ledger, charge("a", 6))
    refusal = await hold(ledger, charge("b", 5))
    assert refusal is not None
    assert (refusal.account, refusal.unit, refusal.asked) == (account, MONEY, 5)
    assert (refusal.limit, refusal.spent, refusal.held) == (10, 0, 6)
    assert refusal.is_in_flight
    assert (refusal.resets_at is None) == (account.period is None)
    assert all([await balance(ledger, each) == (0, 6) for each in accounts_of(ledger, RUN)])
    await ledger.settle(charge("a", 6))
    refusal = await hold(ledger, charge("b", 5))
    assert refusal is not None
    assert not refusal.is_in_flight


@pytest.mark.parametrize("unit", [Unit.TOKENS, Unit.SUB_CALLS])
async def test_tokens_and_sub_calls_are_limited_alike(ledger: Ledger, unit: Unit) -> None:
    """A limit in another unit than money refuses what passes it, at any level."""
    await ledger.set_limit(key_account(Period.DAY), unit, 7 if unit is Unit.TOKENS else 1)
    assert await hold(ledger, charge("a", 0)) is None
    refusal = await hold(ledger, charge("b", 0))
    assert refusal is not None
    assert (refusal.account, refusal.unit) == (key_account(Period.DAY), unit)


async def test_a_batch_is_held_in_order_until_one_does_not_fit(ledger: Ledger) -> None:
    """The first charge that does not fit is refused, and so are those behind it, also the small ones."""
    await ledger.set_limit(SESSION_ACCOUNT, MONEY, 10)
    charges = [charge(f"c{index}", amount) for index, amount in enumerate([4, 4, 5, 1])]
    reserved = await ledger.reserve(charges, accounts_of(ledger, RUN), expires_at=NOON + 1)
    assert reserved.held == 2
    assert reserved.refusal == Refusal(account=SESSION_ACCOUNT, unit=MONEY, asked=5, limit=10, spent=0, held=8)
    assert await balance(ledger, RUN_ACCOUNT) == (0, 8)
    assert set(await ledger.open_holds()) == {"c0", "c1"}
    again = await ledger.reserve(charges[:2], accounts_of(ledger, RUN), expires_at=NOON + 1)
    assert (again.held, await balance(ledger, RUN_ACCOUNT)) == (2, (0, 8))


@pytest.mark.parametrize("calls", [64, 1000])
async def test_racing_calls_never_pass_a_limit_of_any_level(ledger: Ledger, calls: int) -> None:
    """Of many calls at once exactly as many are held as fit, at each level in turn, and not one nano-USD more."""
    for place, account in enumerate(accounts_of(ledger, RUN)):
        await ledger.set_limit(account, MONEY, 3 * (100 + place) - 1)
    held: list[str] = []

    async def one(call: str) -> None:
        if await hold(ledger, charge(call, 3)) is None:
            held.append(call)

    async with anyio.create_task_group() as group:
        for number in range(calls):
            group.start_soon(one, f"c{number}")
    assert len(held) == min(calls, 99)
    assert await balance(ledger, RUN_ACCOUNT) == (0, 3 * len(held))


async def test_a_new_day_begins_at_zero_and_a_month_goes_on(ledger: Ledger, clock: Clock) -> None:
    """What a key spent today is forgotten by tomorrow's limit and remembered by the month's."""
    await ledger.set_limit(key_account(Period.DAY), MONEY, 10)
    await ledger.set_limit(key_account(Period.MONTH), MONEY, 15)
    await hold(ledger, charge("a", 10))
    await ledger.settle(charge("a", 10))
    refusal = await hold(ledger, charge("b", 6))
    assert refusal is not None
    assert refusal.resets_at == NOON + DAY_S / 2
    clock.now += DAY_S
    assert await balance(ledger, key_account(Period.DAY)) == (0, 0)
    refusal = await hold(ledger, charge("c", 6))
    assert refusal is not None
    assert refusal.account == key_account(Period.MONTH)
    assert await hold(ledger, charge("d", 5)) is None


async def test_a_call_over_midnight_is_booked_on_the_day_it_was_held(ledger: Ledger, clock: Clock) -> None:
    """A hold that is settled the next day leaves the new day untouched, and a repeat of it finds it."""
    await hold(ledger, charge("a", 10))
    clock.now += DAY_S / 2
    assert await hold(ledger, charge("a", 10)) is None
    assert await ledger.settle(charge("a", 7))
    assert await balance(ledger, key_account(Period.DAY)) == (0, 0)
    assert await balance(ledger, key_account(Period.MONTH)) == (7, 0)
    clock.now = NOON
    assert await balance(ledger, key_account(Period.DAY)) == (7, 0)
    assert await balance(ledger, tenant_account(ledger, Period.DAY)) == (7, 0)


async def test_days_are_forgotten_and_runs_are_not(ledger: Ledger, stored: Stored) -> None:
    """The counters of a day expire by themselves well after it, those of a run do not."""
    await hold(ledger, charge("a", 1))
    today = f"rlm:{{{stored.tenant}}}:account:key:{KEY}:2026-11-20"
    kept_until = await stored.store.read("EXPIRETIME", today)
    assert isinstance(kept_until, int)
    assert kept_until > NOON + 30 * DAY_S
    assert await stored.store.read("EXPIRETIME", f"rlm:{{{stored.tenant}}}:account:run:{RUN}") == -1


async def test_a_limit_can_be_moved_and_lifted_at_once(ledger: Ledger) -> None:
    """A limit below what is spent refuses everything; lifting it lets through again, in the middle of a day."""
    await hold(ledger, charge("a", 50))
    await ledger.set_limit(key_account(Period.DAY), MONEY, 10)
    assert await hold(ledger, charge("b", 1)) is not None
    await ledger.set_limit(key_account(Period.DAY), MONEY, 51)
    assert await hold(ledger, charge("b", 1)) is None
    await ledger.set_limit(key_account(Period.DAY), MONEY, None)
    assert await hold(ledger, charge("c", 1_000)) is None


async def test_a_key_sees_all_that_bounds_it(ledger: Ledger) -> None:
    """Its standing tells limit, spent, held and when it begins anew, for its own and its tenant's days and months."""
    await ledger.set_limit(key_account(Period.DAY), MONEY, 100)
    await hold(ledger, charge("a", 5))
    await ledger.settle(charge("a", 5))
    await hold(ledger, charge("b", 9))
    standing = {each.account.scope: each for each in await ledger.balances(ledger.outer_accounts((KEY,)), [MONEY])}
    assert list(standing) == ["key_day", "key_month", "tenant_day", "tenant_month"]
    day = standing["key_day"]
    assert (day.limit, day.spent, day.held, day.left, day.resets_at) == (100, 5, 9, 86, NOON + DAY_S / 2)
    assert standing["tenant_month"].limit is None
    assert standing["tenant_month"].spent == 5


async def test_a_provider_that_bills_more_is_booked_in_full(ledger: Ledger) -> None:
    """More than was held is spent, flagged, and leaves no room for the next call."""
    await ledger.set_limit(RUN_ACCOUNT, MONEY, 10)
    await hold(ledger, charge("r", 10))
    assert await ledger.settle(charge("r", 15))
    assert await balance(ledger, RUN_ACCOUNT) == (15, 0)
    assert (await ledger.entries(RUN))[0].flags == ("over_estimate",)
    assert await hold(ledger, charge("s", 1)) == Refusal(
        account=RUN_ACCOUNT, unit=MONEY, asked=1, limit=10, spent=15, held=0
    )


async def test_what_nobody_settled_is_booked_at_its_estimate(ledger: Ledger) -> None:
    """A hold whose time is over is spent in full and flagged; others stay."""
    accounts = accounts_of(ledger, RUN)
    await ledger.reserve([charge("old", 7)], accounts, expires_at=NOON)
    await ledger.reserve([charge("young", 1)], accounts, expires_at=NOON + 0.5)
    assert await ledger.settle_expired(NOON, unfinished=none_of) == 1
    assert await ledger.settle_expired(NOON, unfinished=none_of) == 0
    for account in accounts:
        assert await balance(ledger, account) == (7, 1)
    (booked,) = await ledger.entries(RUN)
    assert (booked.call_id, booked.nano_usd, booked.flags) == ("old", 7, ("uncertain",))
    assert not await ledger.settle(charge("old", 1))
    assert await ledger.open_holds() == ["young"]


async def test_holds_of_runs_that_have_not_ended_are_left_to_who_drives_them(ledger: Ledger) -> None:
    """However late it is, and however many of them there are: a call of a child run as well, by the run above it."""
    live, over, child = RunId("run_live"), RunId("run_over"), RunId("run_child")
    for owner, lineage in ((live, (live,)), (child, (child, live)), (over, (over,))):
        accounts = [Account(level=Level.RUN, owner=run_id) for run_id in lineage]
        for number in range(2 * MOST_AT_ONCE if owner is live else 1):
            await ledger.reserve([charge(f"{owner}/{number}", 1, run=owner)], accounts, expires_at=NOON)

    async def unfinished(asked: AbstractSet[RunId]) -> AbstractSet[RunId]:
        return asked & {live}

    assert await ledger.settle_expired(NOON + 1, unfinished=unfinished) == 1
    assert len(await ledger.entries(over)) == 1
    assert len(await ledger.open_holds()) == 2 * MOST_AT_ONCE + 1
    assert await ledger.settle_expired(NOON + 1, unfinished=none_of) == 2 * MOST_AT_ONCE + 1


async def test_expired_holds_are_settled_however_many_there_are(ledger: Ledger) -> None:
    """More expired holds than fit one look are all settled, once each, by however many replicas look."""
    async with anyio.create_task_group() as group:
        for number in range(600):
            group.start_soon(
                partial(ledger.reserve, [charge(f"r{number}", 1)], accounts_of(ledger, RUN), expires_at=NOON)
            )
    settled: list[int] = []

    async def look() -> None:
        settled.append(await ledger.settle_expired(NOON + 1, unfinished=none_of))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(look)
    assert sum(settled) == 600
    assert await balance(ledger, RUN_ACCOUNT) == (600, 0)


async def test_amounts_beyond_what_doubles_hold_are_exact(ledger: Ledger) -> None:
    """Counters near 2^53 are exact to the last unit, although the scripts compute in doubles."""
    await ledger.set_limit(RUN_ACCOUNT, MONEY, LARGEST_AMOUNT)
    assert await hold(ledger, charge("big", LARGEST_AMOUNT - 1)) is None
    assert await ledger.settle(charge("big", LARGEST_AMOUNT - 1))
    assert await hold(ledger, charge("one", 1)) is None
    assert await hold(ledger, charge("more", 1)) == Refusal(
        account=RUN_ACCOUNT, unit=MONEY, asked=1, limit=LARGEST_AMOUNT, spent=LARGEST_AMOUNT - 1, held=1
    )
    assert await ledger.settle(charge("one", 1))
    assert await balance(ledger, RUN_ACCOUNT) == (LARGEST_AMOUNT, 0)


async def test_sums_of_one_script_stay_exact(ledger: Ledger) -> None:
    """Settled together, charges whose sum no double holds are booked to the last unit all the same."""
    charges = [charge(f"c{index}", LARGEST_AMOUNT - index) for index in range(3)]
    for each in charges:
        await hold(ledger, replace(each, entry=replace(each.entry, nano_usd=1)))
    async with anyio.create_task_group() as group:
        for each in charges:
            group.start_soon(ledger.settle, each)
    assert await balance(ledger, RUN_ACCOUNT) == (3 * LARGEST_AMOUNT - 3, 0)


async def test_an_account_without_a_limit_still_cannot_overflow(ledger: Ledger) -> None:
    """Where no limit is set, the largest amount is the limit, so that no counter can leave its range."""
    assert await hold(ledger, charge("a", LARGEST_AMOUNT)) is None
    refusal = await hold(ledger, charge("b", 1))
    assert refusal is not None
    assert refusal.limit == LARGEST_AMOUNT


@pytest.mark.parametrize("amount", [-1, LARGEST_AMOUNT + 1, 10**30])
async def test_amounts_and_limits_out_of_range_are_refused(ledger: Ledger, amount: int) -> None:
    """Negative amounts and those above 2^53-1 never reach a counter."""
    with pytest.raises(BadRequest):
        await ledger.set_limit(RUN_ACCOUNT, MONEY, amount)
    with pytest.raises(BadRequest):
        await hold(ledger, charge("r", amount))
    await hold(ledger, charge("r", 1))
    with pytest.raises(BadRequest):
        await ledger.settle(charge("r", amount))
    with pytest.raises(BadRequest):
        await ledger.settle(charge("r", 1, tokens=(1, amount, 1)))
    assert await balance(ledger, RUN_ACCOUNT) == (0, 1)


async def test_a_charge_cannot_be_asked_for_twice_at_once(ledger: Ledger) -> None:
    """An empty batch, one that is too long, and one that names a call twice are refused whole."""
    for charges in ([], [charge("c", 1)] * 2, [charge(f"c{index}", 1) for index in range(257)]):
        with pytest.raises(BadRequest):
            await ledger.reserve(charges, accounts_of(ledger, RUN), expires_at=NOON)


@pytest.mark.parametrize("owner", ["a:open", "a\n", "", "é", "a" * 129])
async def test_accounts_cannot_be_named_into_each_other(ledger: Ledger, owner: str) -> None:
    """Names that could make two accounts share a key are refused."""
    with pytest.raises(BadRequest):
        await ledger.balances([Account(level=Level.RUN, owner=owner)])


async def test_usage_adds_entries_up(ledger: Ledger) -> None:
    """Totals by model and purpose are the sums of the entries, dearest first."""
    charges = [
        charge("a", 1, model="small"),
        charge("b", 2, model="small"),
        charge("c", 9, model="large", purpose="turn", sub_calls=0),
    ]
    await hold(ledger, *charges)
    for each in charges:
        await ledger.settle(each)
    assert await ledger.usage(RUN) == [
        UsageTotal(
            model="large", purpose="turn", calls=1, nano_usd=9, input_tokens=3, cached_input_tokens=1, output_tokens=2
        ),
        UsageTotal(
            model="small",
            purpose="sub_call",
            calls=2,
            nano_usd=3,
            input_tokens=6,
            cached_input_tokens=2,
            output_tokens=4,
        ),
    ]
    assert await ledger.usage(RunId("run_2")) == []


async def test_a_lost_reply_books_nothing_twice(stored: Stored, store_directory: Path, tmp_path: Path) -> None:
    """When the server reserves or settles and its reply is lost, the caller gets the outcome and it counts once."""
    async with (
        cutting_proxy(store_directory / "store" / SOCKET, tmp_path / "proxy") as proxy,
        open_store(data_directory=tmp_path, redis_url=f"unix://{tmp_path / 'proxy'}") as store,
    ):
        ledger = Ledger(store, stored.tenant, lambda: NOON)
        proxy.lose_replies(1)
        assert await hold(ledger, charge("r", 3)) is None
        assert await balance(ledger, RUN_ACCOUNT) == (0, 3)
        proxy.lose_replies(1)
        assert not await ledger.settle(charge("r", 2))
        assert proxy.lost == 2
        assert await balance(ledger, RUN_ACCOUNT) == (2, 0)
        assert await ledger.entries(RUN) == [charge("r", 2).entry]
