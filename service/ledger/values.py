"""What the ledger keeps: accounts with limits, reservations that resolve exactly once, entries that add up."""

from dataclasses import dataclass
from enum import StrEnum

from service.ids import CallId, RunId


class Unit(StrEnum):
    """What an account counts. The money rule applies to all of them alike."""

    NANO_USD = "nano_usd"
    TOKENS = "tokens"
    SUB_CALLS = "sub_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A row that amounts are held against and spent from, such as (`run`, run id, `nano_usd`).

    A further level (session, key, tenant-day) is a further row in a reservation, not further code.
    """

    level: str
    owner: str
    unit: Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """`spent + held ≤ limit` always holds, except where a provider billed more than its bound."""

    account: Account
    limit: int | None
    spent: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The first account that could not hold its amount. Nothing was held anywhere."""

    account: Account
    asked: int
    limit: int
    spent: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A settled call, for reports. The sum of entries equals the accounts' `spent`, to the last nano-USD."""

    call_id: CallId
    run_id: RunId
    model: str
    purpose: str
    at: float
    nano_usd: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    flags: tuple[str, ...] = ()
    """`estimated` (no usage was reported), `over_estimate` (billed above its bound), `uncertain` (never settled)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReservation:
    """A hold that has not resolved yet, as one account sees it."""

    reservation_id: str
    amount: int
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """The entries of a run that share a model and a purpose, added up."""

    model: str
    purpose: str
    calls: int
    nano_usd: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
