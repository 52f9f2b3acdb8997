"""What the ledger keeps: accounts with limits, charges that are held and resolved exactly once, entries that add up."""

from collections.abc import Awaitable, Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum

from service.ids import CallId, RunId
from service.money import NanoUSD


class Unit(StrEnum):
    """What an account counts. The money rule applies to all of them alike."""

    NANO_USD = "nano_usd"
    TOKENS = "tokens"
    SUB_CALLS = "sub_calls"


class Level(StrEnum):
    """Whose money it is, from the nearest to the farthest."""

    RUN = "run"
    SESSION = "session"
    KEY = "key"
    TENANT = "tenant"


class Period(StrEnum):
    """How long an account counts before it begins again at zero, in UTC."""

    DAY = "day"
    MONTH = "month"


Unfinished = Callable[[AbstractSet[RunId]], Awaitable[AbstractSet[RunId]]]
"""Which of these runs have not ended: asked of the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What amounts are held against and spent from, such as a run, or a key on the day that it is.

    Its limits belong to the owner, not to one day or month of it: a limit that is changed holds at once.
    """

    level: Level
    owner: str
    period: Period | None = None
    """None counts for ever."""

    @property
    def scope(self) -> str:
        """What people call it: `run`, `session`, `key_day`, `tenant_month` …"""
        return self.level.value if self.period is None else f"{self.level}_{self.period}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """`spent + held ≤ limit` always holds, except where a provider billed more than its bound, a call was made after
    its hold had been given back, or the limit fell."""

    account: Account
    unit: Unit
    limit: int | None
    spent: int
    held: int
    resets_at: float | None = None
    """When the account begins again at zero; None for one that counts for ever."""

    @property
    def left(self) -> int | None:
        """What a call may still hold; None where there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The first account that could not hold its amount. Nothing was held anywhere for this charge."""

    account: Account
    unit: Unit
    asked: int
    limit: int
    spent: int
    held: int
    resets_at: float | None = None

    @property
    def is_in_flight(self) -> bool:
        """Whether only holds stand in the way: it fits once they are resolved below what they hold."""
        return self.spent + self.asked <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What one call holds or has used, in every unit."""

    nano_usd: NanoUSD
    tokens: int
    sub_calls: int

    def of(self, unit: Unit) -> int:
        match unit:
            case Unit.NANO_USD:
                return self.nano_usd
            case Unit.TOKENS:
                return self.tokens
            case Unit.SUB_CALLS:
                return self.sub_calls


NOTHING = Amount(nano_usd=NanoUSD(0), tokens=0, sub_calls=0)


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
    """`estimated` (no usage was reported), `over_estimate` (billed above its bound), `uncertain` (never settled),
    `late` (made although its hold had been given back)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One call's money: held before it is made as the most that it can cost, settled after it as what it did cost."""

    entry: Entry
    sub_calls: int

    @property
    def amount(self) -> Amount:
        return Amount(
            nano_usd=NanoUSD(self.entry.nano_usd),
            tokens=self.entry.input_tokens + self.entry.output_tokens,
            sub_calls=self.sub_calls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What came of charges that asked to be held, in order."""

    held: int
    """How many, from the first on, are held."""
    refusal: Refusal | None
    """Why the next one is not, and with it all behind it; None when all are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """The entries of a run that share a model and a purpose, added up."""

    model: str
    purpose: str
    calls: int = 0
    nano_usd: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


def usage_totals(entries: Iterable[Entry]) -> list[UsageTotal]:
    """Added up by model and purpose, dearest first."""
    totals: dict[tuple[str, str], UsageTotal] = {}
    for entry in entries:
        key = (entry.model, entry.purpose)
        so_far = totals.get(key) or UsageTotal(model=entry.model, purpose=entry.purpose)
        totals[key] = replace(
            so_far,
            calls=so_far.calls + 1,
            nano_usd=so_far.nano_usd + entry.nano_usd,
            input_tokens=so_far.input_tokens + entry.input_tokens,
            cached_input_tokens=so_far.cached_input_tokens + entry.cached_input_tokens,
            output_tokens=so_far.output_tokens + entry.output_tokens,
        )
    return sorted(totals.values(), key=lambda total: (-total.nano_usd, total.model, total.purpose))
