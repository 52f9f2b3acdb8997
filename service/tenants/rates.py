"""How fast: requests and tokens per minute, at every level of a caller, across all replicas.

Each limit is a bucket that drains evenly and holds a minute's worth (the arithmetic is in rates.lua): after a pause a
whole minute's worth fits at once, and in the long run no more than the limit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from service.ids import TenantId
from service.store.connection import Part, Store
from service.store.keys import Keys
from service.store.scripts import load_script
from service.tenants.errors import RateLimited
from service.tenants.values import Level, limit

_RATES = load_script("service.tenants", "rates.lua", leaves_keys=True)


class Rate(StrEnum):
    """What is counted by the minute; each is named as its limit."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where one limit stands: what `RateLimit` and `x-ratelimit-*` headers say."""

    rate: Rate
    level: str
    """`tenant` or `key`."""
    limit: int
    remaining: int
    """What fits right now."""
    reset_s: float
    """Until all of it is there again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateReport:
    """What came of taking: the buckets, and which of them refused. Nothing was taken if one did."""

    buckets: tuple[Bucket, ...]
    refused: Bucket | None = None
    retry_after_s: float | None = None
    """Until what was refused fits; None with `refused` set: never, because it is more than a minute's worth."""

    def tightest(self, rate: Rate) -> Bucket | None:
        """The bucket with the least left; None where nothing limits this rate."""
        return min((each for each in self.buckets if each.rate is rate), key=lambda each: each.remaining, default=None)

    def require(self) -> None:
        """Raises `RateLimited` when a bucket refused."""
        if self.refused is None:
            return
        what = f"the limit of {self.refused.limit} {self.refused.rate.replace('_', ' ')} of this {self.refused.level}"
        if self.retry_after_s is None:
            raise RateLimited(f"{what} is less than this one request needs", data={"retry_after_s": None})
        seconds = max(1, -int(-self.retry_after_s // 1))
        raise RateLimited(f"{what} is reached: try again in {seconds} s", data={"retry_after_s": seconds})


class Rates:
    """The buckets of one tenant. Safe under concurrency, in one process and between several."""

    def __init__(self, store: Store, tenant: TenantId, now: Callable[[], float]) -> None:
        self._store = store
        self._keys = Keys(tenant)
        self._now = now

    async def take(self, levels: Sequence[Level], *, requests: int = 0, tokens: int = 0) -> RateReport:
        """Take from every bucket concerned, or from none. Where nothing is limited the store is not asked.

        Called before the work is begun: once for each HTTP request, and before a model call with the tokens that it is
        held for. A reply that is lost and asked for again takes twice, which only errs on the strict side. The report
        on a request tells of tokens as well: its response says where both stand.
        """
        amounts = {Rate.REQUESTS: requests, Rate.TOKENS: tokens}
        return await self._act("take", levels, amounts, also_for_nothing=requests > 0)

    async def correct(self, levels: Sequence[Level], *, tokens: int) -> RateReport:
        """Book what a call really used beyond what was taken for it, or (negative) give back what it did not use.

        Never refuses; what is owed is a minute's worth at most.
        """
        return await self._act("correct", levels, {Rate.TOKENS: tokens})

    async def standing(self, levels: Sequence[Level]) -> RateReport:
        """Where the buckets stand, without taking anything."""
        return await self._act("take", levels, {Rate.REQUESTS: 0, Rate.TOKENS: 0}, also_for_nothing=True)

    async def _act(
        self, how: str, levels: Sequence[Level], amounts: dict[Rate, int], *, also_for_nothing: bool = False
    ) -> RateReport:
        concerned = [
            (level, rate, most)
            for level in levels
            for rate, amount in amounts.items()
            if (amount or also_for_nothing) and (most := limit(level.limits, rate)) is not None
        ]
        if not concerned:
            return RateReport(buckets=())
        keys = [self._keys("rate", rate, level.kind, level.owner) for level, rate, _ in concerned]
        arguments: list[Part] = [round(self._now() * 1000), how]
        for _, rate, most in concerned:
            arguments += [most, amounts[rate]]
        reply = await self._store.run(_RATES, keys, arguments, is_idempotent=True)
        assert isinstance(reply, list)
        refused, wait_ms, *figures = (each for each in reply if isinstance(each, int))
        buckets = tuple(
            Bucket(rate=rate, level=level.kind, limit=most, remaining=figures[2 * i], reset_s=figures[2 * i + 1] / 1000)
            for i, (level, rate, most) in enumerate(concerned)
        )
        if not refused:
            return RateReport(buckets=buckets)
        retry_after_s = None if wait_ms < 0 else wait_ms / 1000
        return RateReport(buckets=buckets, refused=buckets[refused - 1], retry_after_s=retry_after_s)
