"""What a direct call spared: measured against what runs of the same profile have cost this tenant."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from service.loop.values import StopReason
from service.money import NanoUSD
from service.runs.values import RunView

LOOKED_AT = 100
"""The tenant's latest runs, of any kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """The median cost of answered runs, and how much less (or more: negative) this answer cost."""

    runs: int
    """That were compared with; with 0 nothing was measured."""
    median: NanoUSD | None
    saved: NanoUSD | None


def saving(view: RunView, latest: Sequence[RunView]) -> Saving:
    """Of a finished direct call, by the tenant's latest runs."""
    costs = [
        each.spent
        for each in latest
        if each.profile == view.profile and not each.is_direct and each.stop_reason is StopReason.ANSWERED
    ]
    if not costs:
        return Saving(runs=0, median=None, saved=None)
    middle = median_low(costs)
    return Saving(runs=len(costs), median=middle, saved=NanoUSD(middle - view.spent))
