"""The ledger's script calls and what the store replies to them: keys, arguments, words. Pure.

Keys (all under the tenant's tag): `account:{level}:{owner}[:{day or month}]` a row, `limits:{level}:{owner}`,
`hold:{id}`, `holds` (unresolved, by expiry), `run:{id}:entries`, and those of `reports`. The rules are in the scripts.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from service.errors import BadRequest, NotFound, RlmServiceError
from service.ids import CallId, RunId, TenantId
from service.ledger.errors import ReservationConflict
from service.ledger.periods import Span, span_of
from service.ledger.reports import ReportKeys
from service.ledger.values import Account, Charge, Entry, Level, Refusal, Reserved, Unit
from service.money import MAX_NANO_USD
from service.store.connection import Part, Reply, ScriptCall
from service.store.errors import StaleEpoch
from service.store.fences import NO_FENCE, STALE, Fence
from service.store.keys import Keys
from service.store.riders import AppendMark
from service.store.scripts import load_fenced_script

LARGEST_AMOUNT = MAX_NANO_USD
"""Of any unit: the scripts compute in doubles."""
MOST_AT_ONCE = 256
"""Charges in one script call: a script that runs for long makes everybody else wait."""
REMEMBERED_S = 30 * 24 * 3600

UNITS = tuple(Unit)
ENTRY = TypeAdapter(Entry)

_RESERVE = load_fenced_script("service.ledger", "reserve.lua", leaves_keys=True)
_RESOLVE = load_fenced_script("service.ledger", "resolve.lua")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


def lost_entry(hold: bytes) -> Entry | None:
    """What is booked for a hold when nobody comes back to it; None when it is resolved."""
    head, _, facts = hold.partition(b"\n")
    return ENTRY.validate_json(from_json(facts)["entry"]) if head.startswith(b"held ") else None


@dataclass(frozen=True, slots=True)
class LedgerKeys:
    """Where one tenant's accounts, limits, holds and entries stand."""

    keys: Keys

    @classmethod
    def of(cls, tenant: TenantId) -> "LedgerKeys":
        return cls(Keys(tenant))

    @property
    def holds(self) -> str:
        return self.keys("holds")

    def row(self, account: Account, at: float) -> str:
        """The counters of the day or month that it is at that time."""
        owner = _checked_owner(account)
        if account.period is None:
            return self.keys("account", account.level, owner)
        return self.keys("account", account.level, owner, span_of(account.period, at).name)

    def limits(self, account: Account) -> str:
        return self.keys("limits", account.level, _checked_owner(account))

    def hold(self, call_id: CallId) -> str:
        return self.keys("hold", call_id)

    def entries(self, run_id: RunId) -> str:
        return self.keys("run", run_id, "entries")

    @property
    def all_entries(self) -> tuple[str, str]:
        """What every `entries` begins and ends with."""
        return self.keys("run", ""), ":entries"

    def lineage(self, hold: bytes) -> frozenset[RunId]:
        """The runs among the accounts of an unresolved hold."""
        head, _, facts = hold.partition(b"\n")
        if not head.startswith(b"held "):
            return frozenset()
        prefix = self.keys("account", Level.RUN, "")
        rows: list[str] = from_json(facts)["rows"]
        return frozenset(RunId(row.removeprefix(prefix)) for row in rows if row.startswith(prefix))


def limit_field(account: Account, unit: Unit) -> str:
    """The field of an owner's limits that bounds this account."""
    return f"{_limit_prefix(account)}:{unit}"


def resets_at(account: Account, at: float) -> float | None:
    return None if account.period is None else span_of(account.period, at).ends_at


def reserving(
    keys: LedgerKeys,
    charges: Sequence[Charge],
    accounts: Sequence[Account],
    *,
    expires_at: float,
    at: float,
    within: Fence = NO_FENCE,
) -> ScriptCall:
    """The call that holds the charges in order, as far as they fit.

    Raises:
        BadRequest: an amount is out of range, or there are too many charges, or one of them twice.
    """
    if not 0 < len({charge.entry.call_id for charge in charges}) == len(charges) <= MOST_AT_ONCE:
        raise BadRequest(f"expected 1 to {MOST_AT_ONCE} charges with ids of their own, found {len(charges)}")
    rows = [keys.row(account, at) for account in accounts]
    named = [keys.holds]
    arguments: list[Part] = [len(accounts), LARGEST_AMOUNT, repr(float(expires_at))]
    for account, row in zip(accounts, rows, strict=True):
        span: Span | None = None if account.period is None else span_of(account.period, at)
        named += [row, keys.limits(account)]
        arguments += [_limit_prefix(account), "" if span is None else span.forgotten_at]
    names = ",".join(f"{account.scope}:{account.owner}" for account in accounts)
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    shared = {"rows": rows, "expires_at": float(expires_at)} | ReportKeys(keys.keys).facts(accounts, at)
    shared_json = to_json(shared, inf_nan_mode="constants")[1:]
    for charge in charges:
        entry = charge.entry
        figures = checked_figures(charge)
        own = {
            "amount": figures,
            "model": entry.model,
            "tokens": [entry.input_tokens, entry.cached_input_tokens, entry.output_tokens],
            "entry": ENTRY.dump_json(entry).decode(),
            "entries": keys.entries(entry.run_id),
        }
        named.append(keys.hold(entry.call_id))
        arguments += [entry.call_id, *figures, f"{figures} {digest}", to_json(own)[:-1] + b"," + shared_json]
    return ScriptCall(script=_RESERVE, keys=named, arguments=arguments, fence=within)


def reserved(reply: Reply, charges: Sequence[Charge], accounts: Sequence[Account], at: float) -> Reserved:
    """What the store replied to `reserving`.

    Raises:
        ReservationConflict: an id was used with other amounts or accounts, or is resolved.
        StaleEpoch: the fence of the call did not stand.
    """
    match reply:
        case b"stale":
            raise StaleEpoch("nothing may be held: the run has been taken over by another replica")
        case [int(held), b"all"]:
            return Reserved(held=held, refusal=None)
        case [int(held), b"refused", int(place), int(unit), bytes(limit), bytes(spent), bytes(before)]:
            account = accounts[place - 1]
            refusal = Refusal(
                account=account,
                unit=UNITS[unit - 1],
                asked=charges[held].amount.of(UNITS[unit - 1]),
                limit=int(limit),
                spent=int(spent),
                held=int(before),
                resets_at=resets_at(account, at),
            )
            return Reserved(held=held, refusal=refusal)
        case [int(held), b"resolved"]:
            call_id = charges[held].entry.call_id
            raise ReservationConflict(f"reservation {call_id} is resolved; a new attempt needs a new id")
        case [int(held), b"conflict"]:
            call_id = charges[held].entry.call_id
            raise ReservationConflict(f"reservation {call_id} exists with other amounts; use another id")
    raise AssertionError("reserve.lua says how many are held, and what is the matter with the next")


def settling(keys: LedgerKeys, charges: Sequence[Charge], mark: AppendMark | None = None) -> ScriptCall:
    """The call that books the charges, if the mark of their append is found as it should be."""
    arguments: list[Part] = []
    for charge in charges:
        entry = charge.entry
        arguments += [entry.call_id, ENTRY.dump_json(entry), entry.model, entry.nano_usd]
        arguments += [entry.input_tokens, entry.cached_input_tokens, entry.output_tokens, charge.sub_calls]
    return _resolving(keys, "settle", [charge.entry.call_id for charge in charges], arguments, mark=mark)


def resolving(
    keys: LedgerKeys,
    how: Literal["release", "expire"],
    call_ids: Sequence[CallId],
    *,
    now: float = 0.0,
    within: Fence = NO_FENCE,
) -> ScriptCall:
    """The call that gives holds back, or books those whose time is over."""
    return replace(_resolving(keys, how, call_ids, call_ids, now=now), fence=within)


def _resolving(
    keys: LedgerKeys,
    how: str,
    call_ids: Sequence[CallId],
    arguments: Sequence[Part],
    *,
    now: float = 0.0,
    mark: AppendMark | None = None,
) -> ScriptCall:
    holds = [keys.hold(call_id) for call_id in call_ids]
    fenced: list[Part] = ["", ""] if mark is None else [mark.field, mark.value]
    return ScriptCall(
        script=_RESOLVE,
        keys=[keys.holds, keys.holds if mark is None else mark.key, *holds],
        arguments=[how, REMEMBERED_S, repr(float(now)), *fenced, *arguments],
    )


def outcomes(reply: Reply, call_ids: Sequence[CallId]) -> list[bool | RlmServiceError]:
    """Per hold whether it was resolved now (False: before), or what is wrong with it.

    Raises:
        StaleEpoch: the fence of the call did not stand.
    """
    if reply == STALE:
        raise StaleEpoch("nothing was resolved: the run has been taken over by another replica")
    assert isinstance(reply, list), "resolve.lua replies a word for each hold, unless it is fenced off"
    return [_outcome(call_id, word) for call_id, word in zip(call_ids, reply, strict=True)]


def late_calls(reply: Reply, call_ids: Sequence[CallId]) -> list[CallId]:
    """Those of the settled calls whose holds had been given back."""
    words = reply if isinstance(reply, list) else []
    return [call_id for call_id, word in zip(call_ids, words, strict=False) if word == b"late"]


def _outcome(call_id: CallId, word: Reply) -> bool | RlmServiceError:
    match word:
        case b"done" | b"late":
            return True
        case b"resolved" | b"early":
            return False
        case b"unknown":
            return NotFound(f"there is no reservation {call_id}")
        case _:
            return BadRequest(f"settling reservation {call_id} would overflow an account; look at its amounts")


def checked_figures(charge: Charge) -> list[int]:
    """The charge's amount in each unit, in the order of the scripts. Raises `BadRequest` when one is out of range."""
    entry = charge.entry
    for tokens in (entry.input_tokens, entry.cached_input_tokens, entry.output_tokens):
        checked_amount(tokens, "a number of tokens")
    return [checked_amount(charge.amount.of(unit), "an amount") for unit in UNITS]


def checked_amount(amount: int, what: str) -> int:
    if not 0 <= amount <= LARGEST_AMOUNT:
        raise BadRequest(f"{what} must be a whole number between 0 and 2^53-1, found {amount}")
    return amount


def _limit_prefix(account: Account) -> str:
    return "all" if account.period is None else account.period.value


def _checked_owner(account: Account) -> str:
    if _NAME.fullmatch(account.owner) is None:
        raise BadRequest("an account's owner must be 1 to 128 letters, digits, dots, dashes or underscores")
    return account.owner
