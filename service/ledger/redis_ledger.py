"""The ledger over Redis: one script call for the holds of a batch and one for its settlements.

Every operation is idempotent by the call's id, so a lost reply is answered by asking again. An outcome is remembered
for a month after it was reached: a run that is recovered later than that is recovered by nobody.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from service.errors import RlmServiceError
from service.ids import CallId, KeyId, RunId, TenantId
from service.ledger.reports import Reports
from service.ledger.script_calls import (
    ENTRY,
    MOST_AT_ONCE,
    LedgerKeys,
    checked_amount,
    checked_figures,
    late_calls,
    limit_field,
    lost_entry,
    outcomes,
    reserved,
    reserving,
    resets_at,
    resolving,
    settling,
)
from service.ledger.values import (
    Account,
    Balance,
    Charge,
    Entry,
    Level,
    Period,
    Reserved,
    Unfinished,
    Unit,
    UsageTotal,
    usage_totals,
)
from service.store.batching import Batch
from service.store.connection import Command, Reply, ScriptCall, Store
from service.store.errors import StoreFailed
from service.store.fences import NO_FENCE, Fence
from service.store.key_scans import pages_of_keys
from service.store.riders import AppendMark, Rider

PAGE = 1000

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Settlement:
    """A charge that is being settled behind its journal entry."""

    charge: Charge
    outcome: bool | RlmServiceError | None = None
    """What `Ledger.settle` would have returned or raised; None until it is known."""


class Ledger:
    """The accounts of one tenant. Safe under concurrency, in one process and between several."""

    def __init__(self, store: Store, tenant: TenantId, now: Callable[[], float]) -> None:
        self.tenant = tenant
        self.reports = Reports(store, tenant)
        self._store = store
        self._keys = LedgerKeys.of(tenant)
        self._now = now
        self._calls: Batch[ScriptCall, Reply] = Batch(self._flush)
        self._settlements: Batch[Charge, bool] = Batch(self._settle_together)

    def __repr__(self) -> str:
        return f"<Ledger {self.tenant}>"

    def outer_accounts(self, key_line: Sequence[KeyId]) -> tuple[Account, ...]:
        """The accounts that a key's calls are charged to, beyond run and session: the key's own, those of the keys that
        it descends from, and the tenant's. `key_line` is nearest first; empty where there are no keys."""
        owners = [*((Level.KEY, str(key_id)) for key_id in key_line), (Level.TENANT, str(self.tenant))]
        return tuple(Account(level=level, owner=owner, period=period) for level, owner in owners for period in Period)

    async def set_limit(self, account: Account, unit: Unit, limit: int | None) -> None:
        """Limit what the account's owner may spend (in each day or month, if the account counts by these), or lift it.

        Idempotent, and in force from the next call on. A limit below what is spent and held refuses what comes next.
        """
        await self.set_limits({(account, unit): limit})

    async def set_limits(self, limits: Mapping[tuple[Account, Unit], int | None]) -> None:
        """The same for several at once, all or none."""
        commands: list[Command] = []
        for (account, unit), limit in limits.items():
            key, field = self._keys.limits(account), limit_field(account, unit)
            if limit is None:
                commands.append(("HDEL", key, field))
            else:
                commands.append(("HSET", key, field, checked_amount(limit, "a limit")))
        if commands:
            await self._store.leave(*commands)

    async def reserve(
        self,
        charges: Sequence[Charge],
        accounts: Sequence[Account],
        *,
        expires_at: float,
        within: Fence = NO_FENCE,
    ) -> Reserved:
        """Hold the charges in order, each on all accounts or on none; the first that does not fit ends it.

        Called before every model call, and once for all calls of a batch that are made together. Idempotent: the same
        charge again finds the same hold. What nobody settles until `expires_at` is booked as its entry says.

        Raises:
            ReservationConflict: an id was used with other amounts or accounts, or is resolved.
            BadRequest: an amount is negative or above `LARGEST_AMOUNT`, or there are more than `MOST_AT_ONCE`.
            StaleEpoch: the fence does not stand: nothing may be spent for a run that was lost.
        """
        at = self._now()
        call = reserving(self._keys, charges, accounts, expires_at=expires_at, at=at, within=within)
        return reserved(await self._calls.put(call), charges, accounts, at)

    async def settle(self, charge: Charge) -> bool:
        """Replace the hold by what was really used, and keep the entry. False when it was resolved before.

        Called after the call's event is in the journal. Idempotent; when a connection broke in between, False may also
        mean that this very settlement took place. It is booked on the accounts, and in the day and month, in which it
        was held. More than was held is booked in full, and the entry flagged `over_estimate`; so is, flagged `late`, a
        call whose hold had been given back: the provider was paid.

        Raises:
            NotFound: no such reservation was ever made (or its outcome is forgotten).
            BadRequest: an amount is negative or too large.
        """
        checked_figures(charge)
        return await self._settlements.put(charge)

    def riding(self, settlement: Settlement) -> Rider:
        """The same, to be written behind the append of the call's event, in one round trip with it."""
        checked_figures(settlement.charge)
        return Rider(item=settlement, script_call=self._settle_behind, landed=_land)

    async def release(self, call_ids: Sequence[CallId], *, within: Fence = NO_FENCE) -> int:
        """Give holds back: certainly nothing was used. Returns how many had not been resolved before. Idempotent.

        Raises:
            NotFound: there is no such reservation (or its outcome is forgotten). The others are given back.
            StaleEpoch: the fence does not stand; whoever took the run over decides about its holds.
        """
        found = await self._resolve("release", call_ids, within=within)
        for outcome in found:
            if isinstance(outcome, RlmServiceError):
                raise outcome
        return found.count(True)

    async def settle_expired(self, now: float, *, unfinished: Unfinished) -> int:
        """Settle the holds whose time is over at what they held, flagged `uncertain`; how many there were.

        `now` is the store's own time, and `unfinished` says which of some runs have not ended: their holds, and those
        of the runs below them, are left to whoever drives them or takes them over, however long that takes. It is
        asked after the holds were read, because a run is there before it holds anything. Called now and then by every
        replica. Idempotent.
        """
        settled = left = 0
        while True:
            reply = await self._store.read(
                "ZRANGE", self._keys.holds, "-inf", repr(float(now)), "BYSCORE", "LIMIT", left, MOST_AT_ONCE
            )
            call_ids = _call_ids(reply)
            lineages = await self._lineages(call_ids)
            going_on = await unfinished({run_id for lineage in lineages.values() for run_id in lineage})
            due = [call_id for call_id in call_ids if going_on.isdisjoint(lineages[call_id])]
            settled += (await self._resolve("expire", due, now=now)).count(True)
            left += len(call_ids) - len(due)
            if len(call_ids) < MOST_AT_ONCE:
                return settled

    async def _lineages(self, call_ids: Sequence[CallId]) -> dict[CallId, frozenset[RunId]]:
        """Which runs each hold is held for: the call's own and those above it; none when it is resolved."""
        holds = await self._store.read_many([("GET", self._keys.hold(each)) for each in call_ids]) if call_ids else []
        return {
            call_id: self._keys.lineage(hold) if isinstance(hold, bytes) else frozenset()
            for call_id, hold in zip(call_ids, holds, strict=True)
        }

    async def open_holds(self) -> list[CallId]:
        """The calls whose holds are not resolved yet, soonest to expire first."""
        return _call_ids(await self._store.read("ZRANGE", self._keys.holds, 0, -1))

    async def lost_entries(self, run_ids: Sequence[RunId]) -> list[Entry]:
        """Of the calls of these runs whose holds are not resolved yet: what is booked if nobody comes back to them.

        Looks through all holds of the tenant, so it is for taking a run over and not for every day.
        """
        call_ids = [call_id for call_id in await self.open_holds() if call_id.startswith(tuple(run_ids))]
        holds = await self._store.read_many([("GET", self._keys.hold(each)) for each in call_ids]) if call_ids else []
        entries = [lost_entry(hold) for hold in holds if isinstance(hold, bytes)]
        return [entry for entry in entries if entry is not None]

    async def balances(self, accounts: Sequence[Account], units: Sequence[Unit] = (Unit.NANO_USD,)) -> list[Balance]:
        """What each account has spent and held in each unit (zero for one that was never touched), account by account.

        Of an account that counts by day or month: in those that it is now.
        """
        at = self._now()
        counters = [f"{what}:{unit}" for what in ("spent", "held") for unit in units]
        commands: list[Command] = []
        for account in accounts:
            commands.append(("HMGET", self._keys.row(account, at), *counters))
            commands.append(("HMGET", self._keys.limits(account), *(limit_field(account, unit) for unit in units)))
        replies = await self._store.read_many(commands) if commands else []
        found = []
        for index, account in enumerate(accounts):
            counted, limits = _numbers(replies[2 * index]), _numbers(replies[2 * index + 1])
            for place, unit in enumerate(units):
                found.append(
                    Balance(
                        account=account,
                        unit=unit,
                        limit=limits[place],
                        spent=counted[place] or 0,
                        held=counted[len(units) + place] or 0,
                        resets_at=resets_at(account, at),
                    )
                )
        return found

    async def entries(self, run_id: RunId) -> list[Entry]:
        """What was booked for the run's own calls (not its children's), in the order of booking."""
        found: list[Entry] = []
        start = "-"
        while True:
            page = await self._store.read("XRANGE", self._keys.entries(run_id), start, "+", "COUNT", PAGE)
            assert isinstance(page, list)
            for item in page:
                match item:
                    case [bytes(entry_id), [b"e", bytes(line)]]:
                        found.append(ENTRY.validate_json(line))
                    case [bytes(entry_id), [b"e", bytes(line), b"f", bytes(flag)]]:
                        entry = ENTRY.validate_json(line)
                        found.append(replace(entry, flags=tuple(dict.fromkeys((*entry.flags, flag.decode())))))
                    case _:
                        raise StoreFailed("a ledger entry has an unknown form; was it written by a newer version?")
                start = f"({entry_id.decode()}"
            if len(page) < PAGE:
                return found

    async def booked_runs(self) -> AsyncGenerator[list[RunId], None]:
        """Every run for which something was booked, forgotten ones as well, page by page; one perhaps twice. Looks
        through all keys of the store."""
        head, tail = self._keys.all_entries
        async with aclosing(pages_of_keys(self._store, f"{head}*{tail}")) as pages:
            async for names in pages:
                yield [RunId(name.decode().removeprefix(head).removesuffix(tail)) for name in names]

    async def usage(self, run_id: RunId) -> list[UsageTotal]:
        """The run's entries by model and purpose, dearest first."""
        return usage_totals(await self.entries(run_id))

    async def _resolve(
        self,
        how: Literal["release", "expire"],
        call_ids: Sequence[CallId],
        *,
        now: float = 0.0,
        within: Fence = NO_FENCE,
    ) -> list[bool | RlmServiceError]:
        found: list[bool | RlmServiceError] = []
        for start in range(0, len(call_ids), MOST_AT_ONCE):
            some = call_ids[start : start + MOST_AT_ONCE]
            found += outcomes(await self._calls.put(resolving(self._keys, how, some, now=now, within=within)), some)
        return found

    async def _settle_together(self, charges: Sequence[Charge]) -> list[bool | RlmServiceError]:
        (reply,) = await self._store.run_many([settling(self._keys, charges)])
        return _settled(reply, [charge.entry.call_id for charge in charges])

    def _settle_behind(self, settlements: Sequence[Settlement], mark: AppendMark) -> ScriptCall:
        return settling(self._keys, [settlement.charge for settlement in settlements], mark)

    async def _flush(self, calls: Sequence[ScriptCall]) -> list[Reply | RlmServiceError]:
        return [*await self._store.run_many(calls)]


def _land(settlements: Sequence[Settlement], reply: Reply) -> None:
    if reply != b"fenced":
        call_ids = [settlement.charge.entry.call_id for settlement in settlements]
        for settlement, outcome in zip(settlements, _settled(reply, call_ids), strict=True):
            settlement.outcome = outcome


def _settled(reply: Reply, call_ids: Sequence[CallId]) -> list[bool | RlmServiceError]:
    """The outcomes; who operates the service hears of calls that were made without a hold."""
    for call_id in late_calls(reply, call_ids):
        log.warning("charged_without_hold", call_id=call_id)
    return outcomes(reply, call_ids)


def _call_ids(reply: Reply) -> list[CallId]:
    assert isinstance(reply, list)
    return [CallId(member.decode()) for member in reply if isinstance(member, bytes)]


def _numbers(reply: Reply) -> list[int | None]:
    assert isinstance(reply, list)
    return [int(field) if isinstance(field, bytes) else None for field in reply]
