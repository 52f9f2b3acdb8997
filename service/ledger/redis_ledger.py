"""The ledger over Redis: one script call per reserve and per settle, concurrent ones in one round trip.

Keys (all under the tenant's tag): `account:{unit}:{level}:{owner}` a row, with `:open` its unresolved reservations;
`reservation:{id}`; `reservations` (unresolved, by expiry); `run:{id}:entries`. The rules are in the scripts.

Every operation is idempotent by the reservation's id, so a lost reply is answered by asking again. An outcome is
remembered for `REMEMBERED_S` after it was reached: a run that is recovered later than that is recovered by nobody.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pydantic import TypeAdapter

from service.errors import BadRequest, NotFound, RlmServiceError
from service.ids import CallId, RunId, TenantId
from service.ledger.errors import ReservationConflict
from service.ledger.values import Account, Balance, Entry, OpenReservation, Refusal, Unit, UsageTotal
from service.money import MAX_NANO_USD
from service.store.batching import Batch
from service.store.connection import Command, Part, Reply, ScriptCall, Store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.store.scripts import load_script

LARGEST_AMOUNT = MAX_NANO_USD
"""Of any unit: the scripts compare in doubles."""
REMEMBERED_S = 30 * 24 * 3600
PAGE = 1000
EXPIRED_AT_ONCE = 100

_RESERVE = load_script("service.ledger", "reserve.lua")
_RESOLVE = load_script("service.ledger", "resolve.lua")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ENTRY = TypeAdapter(Entry)


class Ledger:
    """The accounts of one tenant. Safe under concurrency, in one process and between several."""

    def __init__(self, store: Store, tenant: TenantId, now: Callable[[], float]) -> None:
        self._store = store
        self._keys = Keys(tenant)
        self._now = now
        self._calls: Batch[ScriptCall, Reply] = Batch(self._flush)

    def __repr__(self) -> str:
        return f"<Ledger {self._keys.tenant}>"

    async def set_limit(self, account: Account, limit: int | None) -> None:
        """Limit the account, or lift its limit. A limit below what is spent and held refuses whatever comes next."""
        row = self._row(account)
        if limit is None:
            await self._store.write("HDEL", row, "limit")
        else:
            await self._store.write("HSET", row, "limit", _checked(limit, "a limit"))

    async def reserve(
        self,
        reservation_id: str,
        amounts: Mapping[Account, int],
        *,
        expires_at: float,
        if_lost: Entry | None = None,
    ) -> Refusal | None:
        """Hold the amounts on all accounts, or on none and say which one refused.

        Called before every model call. Idempotent: the same id and amounts again find the same hold. `if_lost` is what
        is booked when nobody settles until `expires_at`; without it the entry carries the amounts and no model.

        Raises:
            ReservationConflict: the id was used with other amounts, or is resolved.
            BadRequest: an amount is negative or above `LARGEST_AMOUNT`.
        """
        rows = {self._row(account): _checked(amount, "an amount") for account, amount in amounts.items()}
        lost = if_lost or self._lost_entry(reservation_id, amounts)
        _check_money(amounts, lost)
        arguments: list[Part] = [
            *(reservation_id, repr(float(expires_at)), json.dumps(sorted(rows.items()))),
            *(_ENTRY.dump_json(lost), self._entries(lost.run_id), LARGEST_AMOUNT),
        ]
        for amount in rows.values():
            arguments += [amount, -amount]
        keys = [self._reservation(reservation_id), self._keys("reservations"), *rows]
        match await self._calls.put(ScriptCall(script=_RESERVE, keys=keys, arguments=arguments)):
            case [b"held"]:
                return None
            case [b"refused", int(row), bytes(limit), bytes(spent), bytes(held)]:
                account = list(amounts)[row - 1]
                return Refusal(
                    account=account, asked=amounts[account], limit=int(limit), spent=int(spent), held=int(held)
                )
            case [b"resolved"]:
                raise ReservationConflict(f"reservation {reservation_id} is resolved; a new attempt needs a new id")
            case _:
                raise ReservationConflict(f"reservation {reservation_id} exists with other amounts; use another id")

    async def settle(self, reservation_id: str, spent: Mapping[Account, int], entry: Entry) -> bool:
        """Replace the hold by what was really used, and keep the entry. False when it was resolved before.

        Called after the call's event is in the journal. Idempotent; when a connection broke in between, False may also
        mean that this very settlement took place. More than was held is booked in full, and the
        entry flagged `over_estimate`.

        Raises:
            NotFound: no such reservation was ever made (or its outcome is forgotten).
            BadRequest: an amount is negative or too large, or the money does not equal the entry's.
        """
        _check_money(spent, entry)
        rows = {self._row(account): _checked(amount, "an amount") for account, amount in spent.items()}
        keys = [self._reservation(reservation_id), self._keys("reservations"), self._entries(entry.run_id), *rows]
        arguments: list[Part] = [reservation_id, "settle", REMEMBERED_S, _ENTRY.dump_json(entry), *rows.values()]
        return await self._resolve(reservation_id, keys, arguments)

    async def release(self, reservation_id: str) -> bool:
        """Give the hold back: certainly nothing was used. False when it was resolved before. Idempotent.

        Raises:
            NotFound: no such reservation was ever made (or its outcome is forgotten).
        """
        keys = [self._reservation(reservation_id), self._keys("reservations")]
        return await self._resolve(reservation_id, keys, [reservation_id, "release", REMEMBERED_S])

    async def settle_expired(self, now: float) -> int:
        """Settle the holds whose time is over at what they held, flagged `uncertain`; how many there were.

        Called now and then by every replica, and at recovery. Idempotent.
        """
        settled = 0
        while True:
            reply = await self._store.read(
                "ZRANGE", self._keys("reservations"), "-inf", repr(float(now)), "BYSCORE", "LIMIT", 0, EXPIRED_AT_ONCE
            )
            assert isinstance(reply, list)
            ids = [member.decode() for member in reply if isinstance(member, bytes)]
            calls = [
                ScriptCall(
                    script=_RESOLVE,
                    keys=[self._reservation(each), self._keys("reservations")],
                    arguments=[each, "expire", REMEMBERED_S, repr(float(now))],
                )
                for each in ids
            ]
            settled += (await self._store.run_many(calls)).count(b"done") if calls else 0
            if len(ids) < EXPIRED_AT_ONCE:
                return settled

    async def balances(self, accounts: Sequence[Account]) -> list[Balance]:
        """What each account has spent and held; zero for one that was never touched."""
        if not accounts:
            return []
        replies = await self._store.read_many(
            [("HMGET", self._row(account), "limit", "spent", "held") for account in accounts]
        )
        balances = []
        for account, reply in zip(accounts, replies, strict=True):
            assert isinstance(reply, list)
            limit, spent, held = (int(field) if isinstance(field, bytes) else None for field in reply)
            balances.append(Balance(account=account, limit=limit, spent=spent or 0, held=held or 0))
        return balances

    async def open_reservations(self, account: Account) -> list[OpenReservation]:
        """The unresolved holds on an account, soonest to expire first."""
        row = self._row(account)
        members = await self._store.read("SMEMBERS", f"{row}:open")
        assert isinstance(members, list)
        ids = [member.decode() for member in members if isinstance(member, bytes)]
        if not ids:
            return []
        commands: list[Command] = [("HMGET", self._reservation(each), f"held:{row}", "expires_at") for each in ids]
        found = []
        for each, reply in zip(ids, await self._store.read_many(commands), strict=True):
            match reply:
                case [bytes(amount), bytes(expires_at)]:
                    found.append(OpenReservation(reservation_id=each, amount=int(amount), expires_at=float(expires_at)))
                case _:
                    pass  # resolved between the two reads
        return sorted(found, key=lambda reservation: (reservation.expires_at, reservation.reservation_id))

    async def entries(self, run_id: RunId) -> list[Entry]:
        """What was booked for the run's own calls (not its children's), in the order of booking."""
        found: list[Entry] = []
        start = "-"
        while True:
            page = await self._store.read("XRANGE", self._entries(run_id), start, "+", "COUNT", PAGE)
            assert isinstance(page, list)
            for item in page:
                match item:
                    case [bytes(entry_id), [b"e", bytes(line)]]:
                        found.append(_ENTRY.validate_json(line))
                    case [bytes(entry_id), [b"e", bytes(line), b"f", bytes(flag)]]:
                        entry = _ENTRY.validate_json(line)
                        found.append(replace(entry, flags=tuple(dict.fromkeys((*entry.flags, flag.decode())))))
                    case _:
                        raise StoreFailed("a ledger entry has an unknown form; was it written by a newer version?")
                start = f"({entry_id.decode()}"
            if len(page) < PAGE:
                return found

    async def usage(self, run_id: RunId) -> list[UsageTotal]:
        """The run's entries by model and purpose, dearest first."""
        totals: dict[tuple[str, str], UsageTotal] = {}
        for entry in await self.entries(run_id):
            key = (entry.model, entry.purpose)
            so_far = totals.get(key) or UsageTotal(
                model=entry.model,
                purpose=entry.purpose,
                calls=0,
                nano_usd=0,
                input_tokens=0,
                cached_input_tokens=0,
                output_tokens=0,
            )
            totals[key] = replace(
                so_far,
                calls=so_far.calls + 1,
                nano_usd=so_far.nano_usd + entry.nano_usd,
                input_tokens=so_far.input_tokens + entry.input_tokens,
                cached_input_tokens=so_far.cached_input_tokens + entry.cached_input_tokens,
                output_tokens=so_far.output_tokens + entry.output_tokens,
            )
        return sorted(totals.values(), key=lambda total: (-total.nano_usd, total.model, total.purpose))

    async def _resolve(self, reservation_id: str, keys: Sequence[str], arguments: Sequence[Part]) -> bool:
        match await self._calls.put(ScriptCall(script=_RESOLVE, keys=keys, arguments=arguments)):
            case b"done":
                return True
            case b"resolved":
                return False
            case b"unknown":
                raise NotFound(f"there is no reservation {reservation_id}")
            case _:
                raise BadRequest(
                    f"settling reservation {reservation_id} would overflow an account; look at its amounts"
                )

    async def _flush(self, calls: Sequence[ScriptCall]) -> list[Reply | RlmServiceError]:
        return [*await self._store.run_many(calls)]

    def _lost_entry(self, reservation_id: str, amounts: Mapping[Account, int]) -> Entry:
        """What to book for a hold of which nothing but its amounts is known."""
        owners = [account.owner for account in amounts if account.level == "run"]
        return Entry(
            call_id=CallId(reservation_id),
            run_id=RunId(owners[0] if owners else "unknown"),
            model="unknown",
            purpose="unknown",
            at=self._now(),
            nano_usd=max((n for account, n in amounts.items() if account.unit is Unit.NANO_USD), default=0),
            input_tokens=0,
            cached_input_tokens=0,
            output_tokens=0,
        )

    def _row(self, account: Account) -> str:
        if _NAME.fullmatch(account.level) is None or _NAME.fullmatch(account.owner) is None:
            raise BadRequest(
                "an account's level and owner must be 1 to 128 letters, digits, dots, dashes or underscores"
            )
        return self._keys("account", account.unit, account.level, account.owner)

    def _reservation(self, reservation_id: str) -> str:
        return self._keys("reservation", reservation_id)

    def _entries(self, run_id: RunId) -> str:
        return self._keys("run", run_id, "entries")


def _checked(amount: int, what: str) -> int:
    if not 0 <= amount <= LARGEST_AMOUNT:
        raise BadRequest(f"{what} must be a whole number between 0 and 2^53-1, found {amount}")
    return amount


def _check_money(amounts: Mapping[Account, int], entry: Entry) -> None:
    """Entries add up to what the accounts say because every account is charged exactly what its entry says."""
    charged = {amount for account, amount in amounts.items() if account.unit is Unit.NANO_USD}
    if charged and charged != {entry.nano_usd}:
        raise BadRequest(f"expected every account of call {entry.call_id} to be charged what its entry says")
