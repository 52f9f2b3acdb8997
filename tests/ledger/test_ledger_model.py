"""The ledger against a model of it: any sequence and concurrency of its operations, replays and crashes included."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
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

from service.ids import KeyId, RunId
from service.ledger.errors import ReservationConflict
from service.ledger.redis_ledger import Ledger
from service.ledger.reports import Dimension
from service.ledger.values import Account, Charge, Period, Unit
from tests.ledger.charges import DAY_S, NOON, accounts_of, charge, none_of
from tests.store_fixture import open_stored

ROOT, CHILD, OTHER = RunId("run_root"), RunId("run_child"), RunId("run_other")
LINEAGES = [(ROOT,), (CHILD, ROOT), (OTHER,)]
KEYS = {ROOT: KeyId("key_a"), CHILD: KeyId("key_a"), OTHER: KeyId("key_b")}
SESSIONS = {ROOT: "ses_a", CHILD: "ses_a", OTHER: "ses_b"}
MODELS = ["small", "large"]
Row = tuple[Account, str]
"""An account, and the day or month of it ('' for one that counts for ever)."""


def row_of(account: Account, at: float) -> Row:
    moment = datetime.fromtimestamp(at, UTC)
    match account.period:
        case None:
            return account, ""
        case Period.DAY:
            return account, f"{moment:%Y-%m-%d}"
        case Period.MONTH:
            return account, f"{moment:%Y-%m}"


@dataclass
class Hold:
    """What the model knows of a charge."""

    charge: Charge
    accounts: tuple[Account, ...]
    rows: tuple[Row, ...]
    expires_at: float
    day: str
    is_open: bool = True
    is_released: bool = False
    booked: Charge | None = None


class LedgerMachine(RuleBasedStateMachine):
    """Every operation goes to the real ledger and to the model, and what both answer is the same."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        self.stored = self.stack.enter_context(self.portal.wrap_async_context_manager(open_stored(self.directory)))
        self.clock = NOON
        self.ledger = self.another_replica()
        self.limits: dict[Account, int] = {}
        self.spent: Counter[Row] = Counter()
        self.holds: dict[str, Hold] = {}
        self.number = 0
        self.has_overrun = False
        self.was_lowered = False

    def another_replica(self) -> Ledger:
        return Ledger(self.stored.store, self.stored.tenant, lambda: self.clock)

    def teardown(self) -> None:
        self.stack.close()

    @initialize(data=st.data())
    def limit_every_level(self, data: st.DataObject) -> None:
        for account in self.all_accounts():
            if data.draw(st.booleans()):
                self.limits[account] = data.draw(st.integers(0, 80))
                self.portal.call(self.ledger.set_limit, account, Unit.NANO_USD, self.limits[account])

    def all_accounts(self) -> list[Account]:
        every = [
            account
            for lineage in LINEAGES
            for account in accounts_of(self.ledger, *lineage, key=KEYS[lineage[0]], session=SESSIONS[lineage[0]])
        ]
        return list(dict.fromkeys(every))

    def held(self, row: Row) -> int:
        return sum(hold.charge.amount.nano_usd for hold in self.holds.values() if hold.is_open and row in hold.rows)

    def fits(self, hold: Hold) -> bool:
        asked = hold.charge.amount.nano_usd
        return asked == 0 or all(
            self.spent[row] + self.held(row) + asked <= self.limits.get(row[0], 2**53) for row in hold.rows
        )

    def new_hold(self, lineage: tuple[RunId, ...], nano_usd: int, model: str, lasts_s: float) -> Hold:
        self.number += 1
        accounts = accounts_of(self.ledger, *lineage, key=KEYS[lineage[0]], session=SESSIONS[lineage[0]])
        return Hold(
            charge=charge(f"c{self.number}", nano_usd, run=lineage[0], model=model),
            accounts=accounts,
            rows=tuple(row_of(account, self.clock) for account in accounts),
            expires_at=self.clock + lasts_s,
            day=f"{datetime.fromtimestamp(self.clock, UTC):%Y-%m-%d}",
        )

    @rule(
        batches=st.lists(
            st.tuples(
                st.sampled_from(LINEAGES),
                st.sampled_from(MODELS),
                st.lists(st.integers(0, 30), min_size=1, max_size=5),
                st.floats(1, 2 * DAY_S),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def reserve_batches_concurrently(self, batches: list[tuple[tuple[RunId, ...], str, list[int], float]]) -> None:
        asked = [
            [self.new_hold(lineage, amount, model, lasts_s) for amount in amounts]
            for lineage, model, amounts, lasts_s in batches
        ]
        outcomes: dict[int, int] = {}

        async def reserve(index: int) -> None:
            first = asked[index][0]
            reserved = await self.ledger.reserve(
                [hold.charge for hold in asked[index]], first.accounts, expires_at=first.expires_at
            )
            assert (reserved.refusal is None) == (reserved.held == len(asked[index]))
            outcomes[index] = reserved.held

        async def reserve_all() -> None:
            async with anyio.create_task_group() as group:
                for index in range(len(asked)):
                    group.start_soon(reserve, index)

        self.portal.call(reserve_all)
        for index, holds in enumerate(asked):
            fitting = 0
            for hold in holds:
                if not self.fits(hold):
                    break
                self.holds[hold.charge.entry.call_id] = hold
                fitting += 1
            assert outcomes[index] == fitting

    @precondition(lambda self: any(hold.is_open for hold in self.holds.values()))
    @rule(data=st.data(), share=st.integers(0, 120), times=st.integers(1, 3))
    def settle_together(self, data: st.DataObject, share: int, times: int) -> None:
        """Several calls at once, each of them perhaps by several replicas."""
        open_ids = sorted(key for key, hold in self.holds.items() if hold.is_open)
        chosen = data.draw(st.lists(st.sampled_from(open_ids), min_size=1, max_size=5, unique=True))
        charges = {
            key: replace(
                self.holds[key].charge,
                entry=replace(
                    self.holds[key].charge.entry, nano_usd=self.holds[key].charge.amount.nano_usd * share // 100
                ),
            )
            for key in chosen
        }
        outcomes: dict[str, list[bool]] = {key: [] for key in chosen}

        async def once(ledger: Ledger, key: str) -> None:
            outcomes[key].append(await ledger.settle(charges[key]))

        async def settle() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(times):
                    ledger = self.another_replica()
                    for key in chosen:
                        group.start_soon(once, ledger, key)

        self.portal.call(settle)
        for key in chosen:
            assert sorted(outcomes[key]) == [False] * (times - 1) + [True]
            self.has_overrun |= charges[key].amount.nano_usd > self.holds[key].charge.amount.nano_usd
            self.book(self.holds[key], charges[key])

    @precondition(lambda self: any(hold.is_open for hold in self.holds.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        open_ids = sorted(key for key, hold in self.holds.items() if hold.is_open)
        chosen = data.draw(st.lists(st.sampled_from(open_ids), min_size=1, max_size=5, unique=True))
        ids = [self.holds[key].charge.entry.call_id for key in chosen]
        assert self.portal.call(self.ledger.release, ids) == len(ids)
        for key in chosen:
            self.holds[key].is_open = False
            self.holds[key].is_released = True

    @precondition(lambda self: any(hold.is_released for hold in self.holds.values()))
    @rule(data=st.data())
    def settle_after_release(self, data: st.DataObject) -> None:
        """A call that was made although its hold had been given back is booked all the same, once."""
        released = sorted(key for key, hold in self.holds.items() if hold.is_released)
        hold = self.holds[data.draw(st.sampled_from(released))]
        assert self.portal.call(self.ledger.settle, hold.charge)
        self.has_overrun = True
        self.book(hold, hold.charge)

    @rule(seconds=st.sampled_from([1.0, 3600.0, DAY_S, 12 * DAY_S]))
    def time_passes(self, seconds: float) -> None:
        """Whoever crashed meanwhile left holds behind, which some replica settles, whatever day it is by then."""
        self.clock += seconds
        expired = [hold for hold in self.holds.values() if hold.is_open and hold.expires_at <= self.clock]
        settle = partial(self.another_replica().settle_expired, self.clock, unfinished=none_of)
        assert self.portal.call(settle) == len(expired)
        for hold in expired:
            self.book(hold, hold.charge)

    @rule(data=st.data(), limit=st.one_of(st.none(), st.integers(0, 120)))
    def move_a_limit(self, data: st.DataObject, limit: int | None) -> None:
        account = data.draw(st.sampled_from(self.all_accounts()))
        self.portal.call(self.ledger.set_limit, account, Unit.NANO_USD, limit)
        self.limits.pop(account, None)
        if limit is not None:
            self.limits[account] = limit
            row = row_of(account, self.clock)
            self.was_lowered |= self.spent[row] + self.held(row) > limit

    @precondition(lambda self: bool(self.holds))
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """A recovered driver does again what the dead one may have done already."""
        hold = self.holds[data.draw(st.sampled_from(sorted(self.holds)))]
        if hold.is_open:
            again = self.portal.call(self.reserve_alone, hold)
            assert again == 1
        else:
            if hold.booked:
                assert not self.portal.call(self.ledger.settle, hold.booked)
            assert self.portal.call(self.ledger.release, [hold.charge.entry.call_id]) == 0
            with pytest.raises(ReservationConflict):
                self.portal.call(self.reserve_alone, hold)

    async def reserve_alone(self, hold: Hold) -> int:
        return (await self.ledger.reserve([hold.charge], hold.accounts, expires_at=hold.expires_at)).held

    def book(self, hold: Hold, booked: Charge) -> None:
        hold.is_open = hold.is_released = False
        hold.booked = booked
        for row in hold.rows:
            self.spent[row] += booked.amount.nano_usd

    @invariant()
    def counters_are_the_models_and_no_limit_is_passed(self) -> None:
        for balance in self.portal.call(self.ledger.balances, self.all_accounts()):
            row = row_of(balance.account, self.clock)
            assert balance.spent == self.spent[row]
            assert balance.held == self.held(row)
            assert balance.limit == self.limits.get(balance.account)
            if not self.has_overrun and not self.was_lowered and balance.limit is not None:
                assert balance.spent + balance.held <= balance.limit

    @invariant()
    def entries_add_up_to_what_is_spent(self) -> None:
        for lineage in LINEAGES:
            entries = self.portal.call(self.ledger.entries, lineage[0])
            booked = [
                hold.booked for hold in self.holds.values() if hold.booked and hold.charge.entry.run_id == lineage[0]
            ]
            assert Counter((e.call_id, e.nano_usd) for e in entries) == Counter(
                (each.entry.call_id, each.amount.nano_usd) for each in booked
            )

    @rule()
    def reports_add_up_to_the_entries(self) -> None:
        first, last = date(2026, 11, 1), datetime.fromtimestamp(self.clock, UTC).date()
        booked = [(hold, hold.booked) for hold in self.holds.values() if hold.booked]
        for group_by in ([Dimension.DAY], [Dimension.MODEL, Dimension.KEY], [Dimension.SESSION]):
            expected: Counter[tuple[str, ...]] = Counter()
            for hold, each in booked:
                run = each.entry.run_id
                names = {
                    Dimension.DAY: hold.day,
                    Dimension.MODEL: each.entry.model,
                    Dimension.KEY: str(KEYS[run]),
                    Dimension.SESSION: SESSIONS[run],
                }
                expected[tuple(names[dimension] for dimension in group_by)] += each.amount.nano_usd

            async def read(dimensions: list[Dimension] = group_by) -> tuple[dict[tuple[str, ...], int], int, int]:
                page = await self.ledger.reports.usage(dimensions, first=first, last=last)
                return {line.group: line.usage.nano_usd for line in page.lines}, page.total.nano_usd, page.total.calls

            found, total, calls = self.portal.call(read)
            assert {group: amount for group, amount in found.items() if amount} == {
                group: amount for group, amount in expected.items() if amount
            }
            assert total == sum(each.amount.nano_usd for _, each in booked)
            assert calls == len(booked)

    @invariant()
    def what_is_open_is_what_is_held(self) -> None:
        assert set(self.portal.call(self.ledger.open_holds)) == {
            key for key, hold in self.holds.items() if hold.is_open
        }


def play(directory: Path, examples: int) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.directory = directory
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_ledger_keeps_its_promises(store_directory: Path) -> None:
    """At every level spent plus held never passes a limit, every hold resolves once, and reports, entries and accounts
    name the same money."""
    play(store_directory, examples=6)


@pytest.mark.takes_long
def test_the_ledger_keeps_its_promises_for_long(store_directory: Path) -> None:
    """The same, in many more histories."""
    play(store_directory, examples=80)
