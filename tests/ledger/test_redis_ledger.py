"""The ledger, rule by rule. `test_ledger_model` throws everything at it at once."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest, NotFound
from service.ids import CallId, RunId
from service.ledger.errors import ReservationConflict
from service.ledger.redis_ledger import LARGEST_AMOUNT, Ledger
from service.ledger.values import Account, Balance, Entry, OpenReservation, Refusal, Unit, UsageTotal
from service.store.connection import open_store
from service.store.embedded import SOCKET
from tests.cutting_proxy import cutting_proxy
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

RUN = RunId("run_1")
MONEY = Account(level="run", owner=RUN, unit=Unit.NANO_USD)
TOKENS = Account(level="run", owner=RUN, unit=Unit.TOKENS)
CALLS = Account(level="run", owner=RUN, unit=Unit.SUB_CALLS)
TENANT = Account(level="tenant", owner="default", unit=Unit.NANO_USD)
NOW = 1000.0


@pytest.fixture
async def ledger(stored: Stored) -> Ledger:
    return Ledger(stored.store, stored.tenant, lambda: NOW)


def entry(nano_usd: int, call: str = "c", model: str = "m", purpose: str = "sub_call") -> Entry:
    return Entry(
        call_id=CallId(call),
        run_id=RUN,
        model=model,
        purpose=purpose,
        at=NOW,
        nano_usd=nano_usd,
        input_tokens=3,
        cached_input_tokens=1,
        output_tokens=2,
    )


async def balance(ledger: Ledger, account: Account) -> tuple[int, int]:
    (found,) = await ledger.balances([account])
    return found.spent, found.held


async def test_a_hold_is_replaced_by_what_was_used(ledger: Ledger) -> None:
    """Several units are held and settled in one go, and the entry is kept."""
    await ledger.set_limit(MONEY, 100)
    await ledger.set_limit(CALLS, 1)
    held = {MONEY: 100, TOKENS: 50, CALLS: 1}
    assert await ledger.reserve("r", held, expires_at=NOW + 1) is None
    assert await ledger.balances(list(held)) == [
        Balance(account=MONEY, limit=100, spent=0, held=100),
        Balance(account=TOKENS, limit=None, spent=0, held=50),
        Balance(account=CALLS, limit=1, spent=0, held=1),
    ]
    assert await ledger.settle("r", {MONEY: 40, TOKENS: 5, CALLS: 1}, entry(40))
    assert [await balance(ledger, account) for account in held] == [(40, 0), (5, 0), (1, 0)]
    assert await ledger.entries(RUN) == [entry(40)]
    assert await ledger.open_reservations(MONEY) == []


async def test_all_rows_hold_or_none_does(ledger: Ledger) -> None:
    """When one row refuses, the refusal says which and why, and no other row is touched."""
    await ledger.set_limit(TENANT, 10)
    assert await ledger.reserve("a", {TENANT: 8}, expires_at=NOW + 1) is None
    refusal = await ledger.reserve("b", {MONEY: 3, TENANT: 3}, expires_at=NOW + 1)
    assert refusal == Refusal(account=TENANT, asked=3, limit=10, spent=0, held=8)
    assert await balance(ledger, MONEY) == (0, 0)
    await ledger.release("a")
    assert await ledger.reserve("b", {MONEY: 3, TENANT: 3}, expires_at=NOW + 1) is None


async def test_parallel_reservations_stop_exactly_at_the_limit(ledger: Ledger) -> None:
    """Of 400 at once for 1 each, exactly as many hold as the limit has room for."""
    await ledger.set_limit(MONEY, 100)
    outcomes: list[Refusal | None] = []

    async def reserve(number: int) -> None:
        outcomes.append(await ledger.reserve(f"r{number}", {MONEY: 1}, expires_at=NOW + 1))

    async with anyio.create_task_group() as group:
        for number in range(400):
            group.start_soon(reserve, number)
    assert outcomes.count(None) == 100
    assert await balance(ledger, MONEY) == (0, 100)
    assert len(await ledger.open_reservations(MONEY)) == 100


async def test_repeating_an_operation_changes_nothing(ledger: Ledger) -> None:
    """The same reserve finds its hold, the same settle or release says that it is done."""
    for _ in range(3):
        assert await ledger.reserve("r", {MONEY: 5, CALLS: 1}, expires_at=NOW + 1) is None
    assert await balance(ledger, MONEY) == (0, 5)
    assert [await ledger.settle("r", {MONEY: 4}, entry(4)) for _ in range(3)] == [True, False, False]
    assert not await ledger.release("r")
    assert await balance(ledger, MONEY) == (4, 0)
    assert len(await ledger.entries(RUN)) == 1


async def test_an_id_is_good_for_one_reservation(ledger: Ledger) -> None:
    """Other amounts under a used id, or a used id after it resolved, are a conflict; an unknown id is not found."""
    await ledger.reserve("r", {MONEY: 5}, expires_at=NOW + 1)
    with pytest.raises(ReservationConflict, match="other amounts"):
        await ledger.reserve("r", {MONEY: 6}, expires_at=NOW + 1)
    await ledger.release("r")
    with pytest.raises(ReservationConflict, match="resolved"):
        await ledger.reserve("r", {MONEY: 5}, expires_at=NOW + 1)
    with pytest.raises(NotFound):
        await ledger.settle("never", {MONEY: 1}, entry(1))
    with pytest.raises(NotFound):
        await ledger.release("never")


async def test_a_provider_that_bills_more_is_booked_in_full(ledger: Ledger) -> None:
    """More than was held is spent, flagged, and leaves no room for the next call."""
    await ledger.set_limit(MONEY, 10)
    await ledger.reserve("r", {MONEY: 10}, expires_at=NOW + 1)
    assert await ledger.settle("r", {MONEY: 15}, entry(15))
    assert await balance(ledger, MONEY) == (15, 0)
    assert (await ledger.entries(RUN))[0].flags == ("over_estimate",)
    assert await ledger.reserve("s", {MONEY: 0}, expires_at=NOW + 1) == Refusal(
        account=MONEY, asked=0, limit=10, spent=15, held=0
    )


async def test_what_nobody_settled_is_booked_at_its_estimate(ledger: Ledger) -> None:
    """A hold whose time is over is spent in full and flagged, with the entry left for that case; others stay."""
    await ledger.reserve("old", {MONEY: 7, CALLS: 1}, expires_at=NOW, if_lost=entry(7, call="old"))
    await ledger.reserve("bare", {MONEY: 2}, expires_at=NOW)
    await ledger.reserve("young", {MONEY: 1}, expires_at=NOW + 0.5)
    assert await ledger.settle_expired(NOW) == 2
    assert await ledger.settle_expired(NOW) == 0
    assert await balance(ledger, MONEY) == (9, 1)
    assert await balance(ledger, CALLS) == (1, 0)
    booked = {each.call_id: each for each in await ledger.entries(RUN)}
    assert (booked[CallId("old")].model, booked[CallId("old")].flags) == ("m", ("uncertain",))
    assert (booked[CallId("bare")].nano_usd, booked[CallId("bare")].flags) == (2, ("uncertain",))
    assert not await ledger.settle("old", {MONEY: 1}, entry(1))
    assert await ledger.open_reservations(MONEY) == [
        OpenReservation(reservation_id="young", amount=1, expires_at=NOW + 0.5)
    ]


async def test_expired_holds_are_settled_however_many_there_are(ledger: Ledger) -> None:
    """More expired holds than fit one look are all settled, once each, by however many replicas look."""
    async with anyio.create_task_group() as group:
        for number in range(350):
            group.start_soon(partial(ledger.reserve, f"r{number}", {MONEY: 1}, expires_at=NOW))
    settled: list[int] = []

    async def look() -> None:
        settled.append(await ledger.settle_expired(NOW + 1))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(look)
    assert sum(settled) == 350
    assert await balance(ledger, MONEY) == (350, 0)


async def test_amounts_beyond_what_doubles_hold_are_exact(ledger: Ledger) -> None:
    """Counters near 2^53 are exact to the last unit, although the scripts compare in doubles."""
    await ledger.set_limit(MONEY, LARGEST_AMOUNT)
    assert await ledger.reserve("big", {MONEY: LARGEST_AMOUNT - 1}, expires_at=NOW) is None
    assert await ledger.settle("big", {MONEY: LARGEST_AMOUNT - 1}, entry(LARGEST_AMOUNT - 1))
    assert await ledger.reserve("one", {MONEY: 1}, expires_at=NOW) is None
    refusal = await ledger.reserve("more", {MONEY: 1}, expires_at=NOW)
    assert refusal == Refusal(account=MONEY, asked=1, limit=LARGEST_AMOUNT, spent=LARGEST_AMOUNT - 1, held=1)
    assert await ledger.settle("one", {MONEY: 1}, entry(1))
    assert await balance(ledger, MONEY) == (LARGEST_AMOUNT, 0)


async def test_a_row_without_a_limit_still_cannot_overflow(ledger: Ledger) -> None:
    """Where no limit is set, the largest amount is the limit, so that no counter can leave its range."""
    assert await ledger.reserve("a", {TENANT: LARGEST_AMOUNT}, expires_at=NOW) is None
    refusal = await ledger.reserve("b", {MONEY: 1, TENANT: 1}, expires_at=NOW)
    assert refusal is not None
    assert refusal.limit == LARGEST_AMOUNT
    assert await balance(ledger, MONEY) == (0, 0)


@pytest.mark.parametrize("amount", [-1, LARGEST_AMOUNT + 1, 10**30])
async def test_amounts_and_limits_out_of_range_are_refused(ledger: Ledger, amount: int) -> None:
    """Negative amounts and those above 2^53-1 never reach a counter."""
    with pytest.raises(BadRequest):
        await ledger.set_limit(MONEY, amount)
    with pytest.raises(BadRequest):
        await ledger.reserve("r", {MONEY: amount}, expires_at=NOW)
    await ledger.reserve("r", {MONEY: 1}, expires_at=NOW)
    with pytest.raises(BadRequest):
        await ledger.settle("r", {MONEY: amount}, entry(amount))
    assert await balance(ledger, MONEY) == (0, 1)


async def test_an_entry_says_what_the_accounts_were_charged(ledger: Ledger) -> None:
    """A settlement whose money differs from its entry, or between levels, is refused and leaves the hold."""
    await ledger.reserve("r", {MONEY: 5, TENANT: 5}, expires_at=NOW)
    with pytest.raises(BadRequest):
        await ledger.settle("r", {MONEY: 4, TENANT: 4}, entry(3))
    with pytest.raises(BadRequest):
        await ledger.settle("r", {MONEY: 4, TENANT: 3}, entry(4))
    assert await balance(ledger, MONEY) == (0, 5)


@pytest.mark.parametrize(
    ("level", "owner"), [("run:a", "b"), ("run", "a:open"), ("", "a"), ("run", "a\n"), ("run", "")]
)
async def test_accounts_cannot_be_named_into_each_other(ledger: Ledger, level: str, owner: str) -> None:
    """Names that could make two accounts share a key are refused."""
    with pytest.raises(BadRequest):
        await ledger.balances([Account(level=level, owner=owner, unit=Unit.TOKENS)])


async def test_a_limit_can_be_moved_and_lifted(ledger: Ledger) -> None:
    """A limit below what is spent refuses everything; lifting it lets through again."""
    await ledger.reserve("a", {MONEY: 50}, expires_at=NOW)
    await ledger.set_limit(MONEY, 10)
    assert await ledger.reserve("b", {MONEY: 1}, expires_at=NOW) is not None
    await ledger.set_limit(MONEY, None)
    assert await ledger.reserve("b", {MONEY: 1}, expires_at=NOW) is None


async def test_usage_adds_entries_up(ledger: Ledger) -> None:
    """Totals by model and purpose are the sums of the entries, dearest first."""
    calls = [("a", "small", "sub_call", 1), ("b", "small", "sub_call", 2), ("c", "large", "turn", 9)]
    for call, model, purpose, nano_usd in calls:
        await ledger.reserve(call, {MONEY: nano_usd}, expires_at=NOW)
        await ledger.settle(call, {MONEY: nano_usd}, entry(nano_usd, call, model, purpose))
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
        ledger = Ledger(store, stored.tenant, lambda: NOW)
        proxy.lose_replies(1)
        assert await ledger.reserve("r", {MONEY: 3}, expires_at=NOW) is None
        assert await balance(ledger, MONEY) == (0, 3)
        proxy.lose_replies(1)
        assert not await ledger.settle("r", {MONEY: 2}, entry(2))
        assert proxy.lost == 2
        assert await balance(ledger, MONEY) == (2, 0)
        assert await ledger.entries(RUN) == [entry(2)]
