"""Days and months in UTC: which one a time belongs to, and when it is over. Pure."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import assert_never

from service.ledger.values import Period

KEPT_DAYS = {Period.DAY: 62, Period.MONTH: 400}
"""How long after its end the counters of a day or month are kept: longer than any hold lasts, and for reports."""


@dataclass(frozen=True, slots=True)
class Span:
    """One day or one month."""

    name: str
    """`2026-11-20` or `2026-11`."""
    ends_at: float
    forgotten_at: int


def span_of(period: Period, at: float) -> Span:
    """The day or month that the time belongs to."""
    today = day_of(at)
    match period:
        case Period.DAY:
            name, end = today.isoformat(), today + timedelta(days=1)
        case Period.MONTH:
            name, end = f"{today:%Y-%m}", (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            assert_never(period)
    ends_at = datetime(end.year, end.month, end.day, tzinfo=UTC).timestamp()
    return Span(name, ends_at, int(ends_at) + KEPT_DAYS[period] * 86_400)


def day_of(at: float) -> date:
    return datetime.fromtimestamp(at, UTC).date()
