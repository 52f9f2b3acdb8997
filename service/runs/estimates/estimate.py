"""An estimate of a run's cost: what its limits allow at most, and what like runs of the tenant cost. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.loop.values import Limits
from service.models.prices import Price, bound
from service.money import NanoUSD

LEAST_SAMPLE = 5
"""Fewer runs than this say nothing about the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What like runs of the tenant came to. Of a sample below `LEAST_SAMPLE` only its size is told."""

    runs: int
    p50: NanoUSD | None
    p95: NanoUSD | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A run's cost before it is run."""

    at_most: NanoUSD | None
    """What it can never pass, by its limits; None when neither money nor tokens are limited."""
    first_call: NanoUSD
    """What its first call, and the closing call that is set aside, can cost: with less left it is refused."""
    history: History


def most_by_limits(limits: Limits, prices: Sequence[Price]) -> NanoUSD | None:
    """What the limits let a run spend at most on models of these prices; None without a limit that says so.

    Every token that is read or written counts against the limit on tokens, so the dearest rate bounds what they cost.
    """
    bounds = [] if limits.cost is None else [limits.cost]
    if limits.tokens is not None:
        tokens = limits.tokens
        bounds.append(max(max(bound(price, tokens, 0), bound(price, 0, tokens)) for price in prices))
    return min(bounds) if bounds else None


def history_of(spent: Sequence[NanoUSD]) -> History:
    """The median and the 95th percentile of what runs cost (nearest rank: amounts that some run really had)."""
    ordered = sorted(spent)
    if len(ordered) < LEAST_SAMPLE:
        return History(runs=len(ordered), p50=None, p95=None)
    return History(runs=len(ordered), p50=_percentile(ordered, 50), p95=_percentile(ordered, 95))


def _percentile(ordered: Sequence[NanoUSD], percent: int) -> NanoUSD:
    return ordered[-(-len(ordered) * percent // 100) - 1]
