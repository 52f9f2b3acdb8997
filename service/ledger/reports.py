"""Usage reports of a tenant, from sums that the ledger's scripts keep while they settle: no run is read for them.

Two hashes a day, `usage:{day}` (by model and key) and `usage:{day}:sessions` (by model, key and session). A call counts
on the day on which its money was held, as in the accounts; so the sums of a day are what the tenant's account says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from service.errors import BadRequest
from service.ids import TenantId
from service.ledger.periods import span_of
from service.ledger.values import Account, Level, Period
from service.store.connection import Reply, Store
from service.store.keys import Keys

MOST_DAYS = 366
"""In one report."""
DAYS_KEPT = 400
"""How long the sums by model and key are kept."""
SESSION_DAYS_KEPT = 62
"""How long those by session are kept, of which there may be as many as runs."""
MOST_FIELDS = 1_000_000
"""A report that would have to read more than this is refused: a shorter range, or without sessions, is not."""
SCAN = 2_000

_SEPARATOR = "\x1f"
_NO_KEY = ""
_DAY_S = 86_400


class Dimension(StrEnum):
    """What a report may be grouped by."""

    DAY = "day"
    MODEL = "model"
    KEY = "key"
    SESSION = "session"


@dataclass(slots=True, kw_only=True)
class Usage:
    """What was booked, added up."""

    calls: int = 0
    sub_calls: int = 0
    nano_usd: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


_COUNTERS = frozenset(field.name for field in fields(Usage))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """One line of a report: what it is about, in the order of the dimensions that were asked for, and its sums."""

    group: tuple[str, ...]
    """A key is the empty text where there was none."""
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePage:
    lines: tuple[UsageLine, ...]
    """Sorted by group."""
    next_after: tuple[str, ...] | None
    """The group to go on behind; None on the last page."""
    total: Usage
    """Of the whole report, all its pages."""


@dataclass(frozen=True, slots=True)
class ReportKeys:
    """Where the sums stand, and what a hold has to know so that it is added to them when it settles."""

    keys: Keys

    def by_key(self, day: str) -> str:
        return self.keys("usage", day)

    def by_session(self, day: str) -> str:
        return self.keys("usage", day, "sessions")

    def facts(self, accounts: Sequence[Account], at: float) -> dict[str, Any]:
        """Part of a hold: which sums its settlement belongs to."""
        # Accounts come nearest first, and a report is about the key that asked, not about those that it descends from.
        owners = {account.level: account.owner for account in reversed(accounts) if account.level is not Level.RUN}
        key, session = owners.get(Level.KEY, _NO_KEY), owners.get(Level.SESSION, "")
        day = span_of(Period.DAY, at)
        return {
            "reports": [self.by_key(day.name), self.by_session(day.name)],
            "cells": [key, f"{key}{_SEPARATOR}{session}"],
            "kept_until": [int(day.ends_at) + days * _DAY_S for days in (DAYS_KEPT, SESSION_DAYS_KEPT)],
        }


class Reports:
    """Reads the sums of one tenant."""

    def __init__(self, store: Store, tenant: TenantId) -> None:
        self._store = store
        self._keys = ReportKeys(Keys(tenant))

    async def usage(
        self,
        group_by: Sequence[Dimension],
        *,
        first: date,
        last: date,
        key: str | None = None,
        after: tuple[str, ...] | None = None,
        limit: int = 100,
    ) -> UsagePage:
        """What was booked from the first to the last day (UTC, both included).

        Args:
            group_by: the dimensions of a line, in this order; none for one line in all.
            key: count this API key only.
            after: the group behind which the page begins.

        Raises:
            BadRequest: the range is empty or too long, or the report would be too large.
        """
        if len(set(group_by)) != len(group_by):
            raise BadRequest("each dimension can be grouped by once")
        if first > last:
            raise BadRequest(
                f"the first day, {first}, lies behind the last, {last}: exchange them", data={"param": "first"}
            )
        days = (last - first).days + 1
        if not 1 <= days <= MOST_DAYS:
            raise BadRequest(f"a report is about 1 to {MOST_DAYS} days, found {days}")
        groups: dict[tuple[str, ...], Usage] = {}
        total = Usage()
        left = MOST_FIELDS
        for day in (first + timedelta(days=number) for number in range(days)):
            left = await self._add_day(day.isoformat(), group_by, key, (groups, total), left)
        names = sorted(group for group in groups if after is None or group > after)
        lines = tuple(UsageLine(group=name, usage=groups[name]) for name in names[:limit])
        more = len(names) > limit and lines
        return UsagePage(lines=lines, next_after=lines[-1].group if more else None, total=total)

    async def _add_day(
        self,
        day: str,
        group_by: Sequence[Dimension],
        only_key: str | None,
        into: tuple[dict[tuple[str, ...], Usage], Usage],
        left: int,
    ) -> int:
        """Add one day's sums to the report; returns how many more may be read."""
        groups, total = into
        sums = self._keys.by_session(day) if Dimension.SESSION in group_by else self._keys.by_key(day)
        for field, amount in (await self._read(sums, left)).items():
            model, key, *session, counter = field.split(_SEPARATOR)
            left -= 1
            if counter not in _COUNTERS or only_key not in (None, key):
                continue
            names = {
                Dimension.DAY: day,
                Dimension.MODEL: model,
                Dimension.KEY: key,
                Dimension.SESSION: "".join(session),
            }
            group = tuple(names[dimension] for dimension in group_by)
            for usage in (groups.setdefault(group, Usage()), total):
                setattr(usage, counter, getattr(usage, counter) + amount)
        return left

    async def _read(self, sums: str, most: int) -> dict[str, int]:
        """All fields of a hash, a bounded number of them at a time. A field may come twice while the hash grows."""
        found: dict[str, int] = {}
        cursor: Reply = b"0"
        while True:
            match await self._store.read("HSCAN", sums, _part(cursor), "COUNT", SCAN):
                case [bytes(cursor), list(pairs)]:
                    texts = [part.decode() for part in pairs if isinstance(part, bytes)]
                    found |= {name: int(value) for name, value in zip(texts[::2], texts[1::2], strict=True)}
                case _:
                    raise AssertionError("HSCAN replies a cursor and pairs")
            if len(found) > most:
                raise BadRequest("this report is too large: ask for fewer days, or not by session")
            if cursor == b"0":
                return found


def _part(cursor: Reply) -> bytes:
    assert isinstance(cursor, bytes)
    return cursor
