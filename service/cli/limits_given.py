"""Limits and times as people type them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace

from service.cli.views import plain_usd
from service.errors import BadRequest
from service.money import NanoUSD, parse_usd
from service.tenants.values import LIMIT_NAMES, CallerLimits, limit

_MONEY = {"usd_per_day": "nano_usd_per_day", "usd_per_month": "nano_usd_per_month"}
NAMES = (*(name for name in LIMIT_NAMES if name not in _MONEY.values()), *_MONEY)
"""What `--limit` takes: money is typed in USD."""

_TIME = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def changed_limits(limits: CallerLimits, given: Sequence[str]) -> CallerLimits:
    """The limits with each `NAME=VALUE` set, and each `NAME=none` lifted.

    Raises:
        BadRequest: a name or a value is none.
    """
    for each in given:
        name, _, value = each.partition("=")
        if name not in NAMES or not value:
            raise BadRequest(f"expected --limit NAME=VALUE with a name of {', '.join(NAMES)}, found {each[:80]!r}")
        limits = replace(limits, **{_MONEY.get(name, name): None if value == "none" else _amount(name, value)})
    return limits


def _amount(name: str, value: str) -> int:
    try:
        if name in _MONEY:
            return parse_usd(value)
        if not value.isdecimal():
            raise ValueError(f"expected a whole number or none, found {value[:80]!r}")
        return int(value[:20])
    except ValueError as error:
        raise BadRequest(f"--limit {name}: {error}") from error


def seconds_given(text: str, option: str) -> float:
    """The seconds of a time such as 90d, 12h, 30m or 15s.

    Raises:
        BadRequest: it is none.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise BadRequest(f"{option} expects a time such as 90d, 12h, 30m or 15s, found {text[:80]!r}")
    return float(int(found[1]) * _SECONDS[found[2]])


def limits_as_given(limits: CallerLimits) -> dict[str, int | str]:
    """Those that are set, as `--limit` takes them."""
    shown: dict[str, int | str] = {}
    for name in NAMES:
        value = limit(limits, _MONEY.get(name, name))
        if value is not None:
            shown[name] = plain_usd(NanoUSD(value)) if name in _MONEY else value
    return shown
