"""The ledger against a model of it: any sequence and any concurrency of its operations, replays included."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.ids import CallId, RunId
from service.ledger.errors import ReservationConflict
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Entry, Refusal, Unit
from tests.store_fixture import open_stored

LIMIT = 60
RUNS = [RunId("run_0"), RunId("run_1")]
TENANT = Account(level="tenant", owner="default", unit=Unit.NANO_USD)
ROWS = [
    *(Account(level="run", owner=run, unit=unit) for run in RUNS for unit in (Unit.NANO_USD, Unit.SUB_CALLS)),
    TENANT,
]


@dataclass
class Hold:
    """What the model knows of a reservation."""

    run: RunId
    amounts: dict[Account, int]
    expires_at: int
    is_open: bool = True
    entry: Entry | None = field(default=None)


def amounts_of(run: RunId, nano_usd: int) -> dict[Account, int]:
    return {
        Account(level="run", owner=run, unit=Unit.NANO_USD): nano_usd,
        Account(level="run", owner=run, unit=Unit.SUB_CALLS): 1,
        TENANT: nano_usd,
    }


def entry_of(call: str, run: RunId, nano_usd: int) -> Entry:
    return Entry(
        call_id=CallId(call),
        run_id=run,
        model="m",
        purpose="sub_call",
        at=0.0,
        nano_usd=nano_usd,
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
    )


class LedgerMachine(RuleBasedStateMachine):
    """Every operation goes to the real ledger and to the model, and what both answer is the same."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        stored = self.stack.enter_context(self.portal.wrap_async_context_manager(open_stored(self.directory)))
        self.ledger = Ledger(stored.store, stored.tenant, lambda: 0.0)
        self.limits: dict[Account, int] = {}
        self.spent = dict.fromkeys(ROWS, 0)
        self.holds: dict[str, Hold] = {}
        self.clock = 0
        self.has_overrun = False

    def teardown(self) -> None:
        self.stack.close()

    @initialize()
    def limit_everything(self) -> None:
        for account in ROWS:
            self.limits[account] = 8 if account.unit is Unit.SUB_CALLS else LIMIT
            self.portal.call(self.ledger.set_limit, account, self.limits[account])

    def held(self, account: Account) -> int:
        return sum(hold.amounts.get(account, 0) for hold in self.holds.values() if hold.is_open)

    def fits(self, amounts: dict[Account, int]) -> bool:
        return all(self.spent[row] + self.held(row) + asked <= self.limits[row] for row, asked in amounts.items())

    async def reserve_all(self, asked: dict[str, Hold]) -> dict[str, Refusal | None]:
        """All at once, in this order as far as the ledger is concerned."""
        outcomes: dict[str, Refusal | None] = {}

        async def reserve(reservation_id: str, hold: Hold) -> None:
            lost = entry_of(reservation_id, hold.run, hold.amounts[TENANT])
            outcomes[reservation_id] = await self.ledger.reserve(
                reservation_id, hold.amounts, expires_at=hold.expires_at, if_lost=lost
            )

        async with anyio.create_task_group() as group:
            for reservation_id, hold in asked.items():
                group.start_soon(reserve, reservation_id, hold)
        return outcomes

    @rule(
        wanted=st.lists(
            st.tuples(st.sampled_from(RUNS), st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=12
        )
    )
    def reserve_concurrently(self, wanted: list[tuple[RunId, int, int]]) -> None:
        asked = {
            f"r{len(self.holds) + number}": Hold(run=run, amounts=amounts_of(run, n), expires_at=self.clock + lasts)
            for number, (run, n, lasts) in enumerate(wanted)
        }
        outcomes = self.portal.call(self.reserve_all, asked)
        for reservation_id, hold in asked.items():
            assert (outcomes[reservation_id] is None) == self.fits(hold.amounts)
            hold.is_open = outcomes[reservation_id] is None
            # A refused id was never used; keep the number, so that the next id is a new one.
            self.holds[reservation_id] = hold

    @precondition(lambda self: any(hold.is_open for hold in self.holds.values()))
    @rule(data=st.data(), share=st.integers(0, 120), times=st.integers(1, 4))
    def settle_concurrently(self, data: st.DataObject, share: int, times: int) -> None:
        reservation_id, hold = self.choose_open(data)
        used = hold.amounts[TENANT] * share // 100
        spent, entry = amounts_of(hold.run, used), entry_of(reservation_id, hold.run, used)

        async def settle() -> list[bool]:
            outcomes: list[bool] = []

            async def once() -> None:
                outcomes.append(await self.ledger.settle(reservation_id, spent, entry))

            async with anyio.create_task_group() as group:
                for _ in range(times):
                    group.start_soon(once)
            return outcomes

        assert sorted(self.portal.call(settle)) == [False] * (times - 1) + [True]
        self.has_overrun = self.has_overrun or used > hold.amounts[TENANT]
        self.book(hold, spent, entry)

    @precondition(lambda self: any(hold.is_open for hold in self.holds.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        reservation_id, hold = self.choose_open(data)
        assert self.portal.call(self.ledger.release, reservation_id)
        hold.is_open = False

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.clock += seconds
        expired = [
            (reservation_id, hold)
            for reservation_id, hold in self.holds.items()
            if hold.is_open and hold.expires_at <= self.clock
        ]
        assert self.portal.call(self.ledger.settle_expired, float(self.clock)) == len(expired)
        for reservation_id, hold in expired:
            self.book(hold, hold.amounts, entry_of(reservation_id, hold.run, hold.amounts[TENANT]))

    @precondition(lambda self: any(hold.entry or hold.is_open for hold in self.holds.values()))
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """A recovered driver does again what the dead one may have done already."""
        known = [(key, hold) for key, hold in self.holds.items() if hold.is_open or hold.entry]
        reservation_id, hold = data.draw(st.sampled_from(known))
        if hold.is_open:
            assert self.portal.call(self.reserve_all, {reservation_id: hold}) == {reservation_id: None}
        else:
            assert hold.entry is not None
            spent = amounts_of(hold.run, hold.entry.nano_usd)
            assert not self.portal.call(self.ledger.settle, reservation_id, spent, hold.entry)
            assert not self.portal.call(self.ledger.release, reservation_id)
            with pytest.raises(ReservationConflict):
                self.portal.call(self.reserve_alone, reservation_id, hold)

    async def reserve_alone(self, reservation_id: str, hold: Hold) -> None:
        await self.ledger.reserve(reservation_id, hold.amounts, expires_at=hold.expires_at)

    def choose_open(self, data: st.DataObject) -> tuple[str, Hold]:
        return data.draw(st.sampled_from([(key, hold) for key, hold in self.holds.items() if hold.is_open]))

    def book(self, hold: Hold, spent: dict[Account, int], entry: Entry) -> None:
        hold.is_open = False
        hold.entry = entry
        for account, amount in spent.items():
            self.spent[account] += amount

    @invariant()
    def counters_are_the_models(self) -> None:
        for balance in self.portal.call(self.ledger.balances, ROWS):
            assert balance.spent == self.spent[balance.account]
            assert balance.held == self.held(balance.account)
            if not self.has_overrun and balance.limit is not None:
                assert balance.spent + balance.held <= balance.limit

    @invariant()
    def entries_add_up_to_what_is_spent(self) -> None:
        booked = 0
        for run in RUNS:
            entries = self.portal.call(self.ledger.entries, run)
            assert (
                sum(entry.nano_usd for entry in entries)
                == self.spent[Account(level="run", owner=run, unit=Unit.NANO_USD)]
            )
            assert len({entry.call_id for entry in entries}) == len(entries)
            booked += sum(entry.nano_usd for entry in entries)
        assert booked == self.spent[TENANT]

    @invariant()
    def what_is_open_is_what_is_held(self) -> None:
        found = self.portal.call(self.ledger.open_reservations, TENANT)
        assert {each.reservation_id: each.amount for each in found} == {
            key: hold.amounts[TENANT] for key, hold in self.holds.items() if hold.is_open
        }


def test_the_ledger_keeps_its_promises(store_directory: Path) -> None:
    """Spent plus held never passes a limit, every hold resolves once, and entries add up to what is spent."""

    class Machine(LedgerMachine):
        directory = store_directory

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
