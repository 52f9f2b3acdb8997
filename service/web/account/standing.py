"""`GET /v1/key`: the key of the request itself, and where it and its tenant stand."""

from typing import Any, Literal

from pydantic import Field

from service.ids import TenantId
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Period
from service.ledger.values import Level as MoneyLevel
from service.money import NanoUSD
from service.tenants.quotas import Counted
from service.tenants.registry import Registry
from service.tenants.values import Level, limit
from service.web.account.key_shapes import EXAMPLE_OF_KEY, ShownKey, shown_key
from service.web.callers import CallerOfRequest, RoomsOfService, RunsOfCaller
from service.web.doors import ANY_KEY, open_router
from service.web.shapes import Money, Shown, example, money

router = open_router(ANY_KEY, tag="keys")

_LIMIT_OF_PERIOD = {Period.DAY: "nano_usd_per_day", Period.MONTH: "nano_usd_per_month"}

EXAMPLE_OF_BUDGET: dict[str, Any] = {
    "level": "key",
    "owner": "key_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "period": "day",
    "limit": {"usd": "25.00", "nano_usd": 25_000_000_000},
    "spent": {"usd": "3.2171", "nano_usd": 3_217_100_000},
    "held": {"usd": "0.40", "nano_usd": 400_000_000},
    "left": {"usd": "21.3829", "nano_usd": 21_382_900_000},
    "resets_at": 1763683200.0,
}


class ShownBudget(Shown):
    """What somebody has spent of a day or a month, and what calls under way hold."""

    model_config = example(EXAMPLE_OF_BUDGET)

    level: Literal["key", "tenant"]
    owner: str
    period: Period
    limit: Money | None = Field(description="Null: no limit of its own.")
    spent: Money
    held: Money = Field(description="The most that calls under way can cost.")
    left: Money | None
    resets_at: float | None = Field(description="When it begins again at zero.")


class ShownCount(Shown):
    """How much of a limit is used now."""

    level: Literal["key", "tenant"]
    owner: str
    limit_name: str
    limit: int
    used: int


class KeyStanding(Shown):
    """The key of the request, and what bounds it."""

    model_config = example(
        {
            "key": EXAMPLE_OF_KEY,
            "budgets": [EXAMPLE_OF_BUDGET],
            "counts": [
                {
                    "level": "tenant",
                    "owner": "ten_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
                    "limit_name": "parallel_runs",
                    "limit": 8,
                    "used": 3,
                }
            ],
        }
    )

    key: ShownKey
    budgets: list[ShownBudget] = Field(description="Of the key, the keys that it descends from, and the tenant.")
    counts: list[ShownCount] = Field(description="Of what is limited, other than money.")


@router.get("/v1/key", summary="Show the key of this request")
async def standing(caller: CallerOfRequest, runs: RunsOfCaller, rooms: RoomsOfService) -> KeyStanding:
    """Any API key may ask: its limits, what was spent, what is held, and when that begins anew."""
    return KeyStanding(
        key=shown_key(caller.key, rooms.now()),
        budgets=await shown_budgets(runs.rooms.ledger, caller.levels),
        counts=await _counts(rooms.registry, caller.tenant.id, caller.levels),
    )


async def shown_budgets(ledger: Ledger, levels: tuple[Level, ...]) -> list[ShownBudget]:
    """The days and months of these levels, in their order."""
    places = [(level, period) for level in levels for period in Period]
    accounts = [Account(level=MoneyLevel(level.kind), owner=level.owner, period=period) for level, period in places]
    found = []
    for (level, period), balance in zip(places, await ledger.balances(accounts), strict=True):
        most = limit(level.limits, _LIMIT_OF_PERIOD[period])
        found.append(
            ShownBudget(
                level=level.kind,
                owner=level.owner,
                period=period,
                limit=None if most is None else money(NanoUSD(most)),
                spent=money(NanoUSD(balance.spent)),
                held=money(NanoUSD(balance.held)),
                left=None if most is None else money(NanoUSD(max(0, most - balance.spent - balance.held))),
                resets_at=balance.resets_at,
            )
        )
    return found


async def _counts(registry: Registry, tenant_id: TenantId, levels: tuple[Level, ...]) -> list[ShownCount]:
    """Only what is limited is counted."""
    quotas, storage, rates = registry.quotas_of(tenant_id), registry.storage_of(tenant_id), registry.rates_of(tenant_id)
    found = []
    for level in levels:
        used = {name: await quotas.count(name, level) for name in Counted if limit(level.limits, name) is not None}
        if level.limits.storage_bytes is not None:
            found.append(_count(level, "storage_bytes", await storage.used_bytes(level)))
        for bucket in (await rates.standing([level])).buckets:
            found.append(_count(level, bucket.rate, bucket.limit - bucket.remaining))
        found += [_count(level, name, count) for name, count in used.items()]
    return found


def _count(level: Level, limit_name: str, used: int) -> ShownCount:
    most = limit(level.limits, limit_name)
    assert most is not None, "only what is limited is counted"
    return ShownCount(level=level.kind, owner=level.owner, limit_name=limit_name, limit=most, used=used)
