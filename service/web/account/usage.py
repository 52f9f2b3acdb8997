"""`GET /v1/usage`: what the tenant was charged, by day, model, key and session. It adds up to the ledger."""

import base64
import binascii
import json
from datetime import date, timedelta
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import Field

from service.errors import BadRequest
from service.ids import is_id
from service.ledger.periods import day_of
from service.ledger.redis_ledger import Ledger
from service.ledger.reports import MOST_DAYS, Dimension, Usage, UsageLine
from service.money import NanoUSD
from service.tenants.values import Scope
from service.web.callers import RoomsOfService, RunsOfCaller
from service.web.doors import open_router
from service.web.patterns import GROUP_BY, KEY_ID
from service.web.shapes import Money, Shown, example, money

router = open_router(Scope.USAGE, tag="usage")

USUAL_DAYS = 30
LONGEST_CURSOR = 2000
"""A group may hold a model's name, a key and a session."""

_NO_KEY = ""
_FIGURES: dict[str, Any] = {
    "calls": 12,
    "sub_calls": 10,
    "input_tokens": 81200,
    "cached_input_tokens": 20000,
    "output_tokens": 3100,
    "cost": {"usd": "0.0285", "nano_usd": 28_500_000},
}


class ShownUsage(Shown):
    """What was charged, added up."""

    calls: int
    sub_calls: int
    input_tokens: int
    cached_input_tokens: int = Field(description="Part of `input_tokens`.")
    output_tokens: int
    cost: Money


class UsageOfGroup(ShownUsage):
    """One line of a report."""

    group: dict[Dimension, str | None] = Field(description="By the dimensions asked for; a key may be null.")


class UsageReport(Shown):
    """What was charged from the first to the last day (UTC, both included)."""

    model_config = example(
        {
            "first": "2026-11-01",
            "last": "2026-11-30",
            "lines": [{"group": {"day": "2026-11-20", "model": "openai/gpt-5-mini"}, **_FIGURES}],
            "total": _FIGURES,
            "next_cursor": None,
        }
    )

    first: date
    last: date
    lines: list[UsageOfGroup] = Field(description="Sorted by group.")
    total: ShownUsage = Field(description="Of the whole report, all its pages.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


class UsageAsked:
    """What a report shall be about, from the query."""

    def __init__(
        self,
        *,
        group_by: Annotated[
            str,
            Query(
                pattern=GROUP_BY,
                description="Dimensions, separated by commas, each at most once: day, model, key, session.",
                examples=["day,model"],
            ),
        ] = Dimension.DAY,
        first: Annotated[
            date | None,
            Query(description="The first day; of 30 days if left out.", examples=["2026-11-01"]),
        ] = None,
        last: Annotated[
            date | None, Query(description="The last day; today if left out.", examples=["2026-11-30"])
        ] = None,
        key_id: Annotated[str | None, Query(pattern=KEY_ID, description="Of this API key only.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(max_length=LONGEST_CURSOR)] = None,
    ) -> None:
        self.dimensions = tuple(Dimension(name) for name in group_by.split(","))
        self.first = first
        self.last = last
        self.key_id = key_id if key_id is None or is_id(key_id, "key") else None
        self.limit = limit
        self.after = None if cursor is None else _group_behind(cursor, self.dimensions)


UsageAskedInQuery = Annotated[UsageAsked, Depends()]


@router.get("/v1/usage", summary="Report what was spent")
async def usage(asked: UsageAskedInQuery, runs: RunsOfCaller, rooms: RoomsOfService) -> UsageReport:
    """Of the whole tenant. Every call is counted once, on the day on which its money was held; the sums are what the
    tenant's budgets say, to the last nano-USD."""
    return await usage_report(runs.rooms.ledger, asked, rooms.now())


async def usage_report(ledger: Ledger, asked: UsageAsked, now: float) -> UsageReport:
    """Raises `BadRequest`: the range is empty or too long, or a dimension is named twice."""
    last = asked.last or day_of(now)
    first = asked.first or _days_before(last, USUAL_DAYS - 1)
    page = await ledger.reports.usage(
        asked.dimensions, first=first, last=last, key=asked.key_id, after=asked.after, limit=asked.limit
    )
    return UsageReport(
        first=first,
        last=last,
        lines=[_shown_line(line, asked.dimensions) for line in page.lines],
        total=ShownUsage.model_validate(_figures(page.total)),
        next_cursor=None if page.next_after is None else _cursor_after(page.next_after),
    )


def _days_before(day: date, days: int) -> date:
    try:
        return day - timedelta(days=days)
    except OverflowError:
        raise BadRequest(f"a report is about 1 to {MOST_DAYS} days of our calendar", data={"param": "last"}) from None


def _shown_line(line: UsageLine, dimensions: tuple[Dimension, ...]) -> UsageOfGroup:
    names: dict[Dimension, str | None] = dict(zip(dimensions, line.group, strict=True))
    if names.get(Dimension.KEY) == _NO_KEY:
        names[Dimension.KEY] = None
    return UsageOfGroup.model_validate({"group": names, **_figures(line.usage)})


def _figures(usage: Usage) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "sub_calls": usage.sub_calls,
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": money(NanoUSD(usage.nano_usd)),
    }


def _cursor_after(group: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(group).encode()).decode().rstrip("=")


def _group_behind(cursor: str, dimensions: tuple[Dimension, ...]) -> tuple[str, ...]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        group = json.loads(text)
    except (binascii.Error, ValueError, RecursionError):
        group = None
    if not isinstance(group, list) or len(group) != len(dimensions) or not all(isinstance(x, str) for x in group):
        raise BadRequest(
            "this cursor cannot be used: take `next_cursor` of the page before, as it is", data={"param": "cursor"}
        )
    return tuple(group)
