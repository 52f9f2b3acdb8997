"""`budget()`: what is left of the run's limits, as code in a cell may ask."""

from collections.abc import Callable

from service.ledger.values import Unit
from service.loop.events import CallFinished
from service.money import NANO_PER_USD
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import HostCall, HostCallItem
from service.runs.standing import Standing


class BudgetReport:
    """Answers `budget()` for one run. A child run sees what is left of the budget it shares."""

    def __init__(self, standing: Standing, *, turns_taken: Callable[[], int], now: Callable[[], float]) -> None:
        self._standing = standing
        self._turns_taken = turns_taken
        self._now = now

    def remember(self, call: CallFinished) -> None:
        """What was spent is asked of the ledger."""

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        """One item: a dict with what is left, by the tightest of all limits that hold, `None` where there is none."""
        purse, submitted = self._standing.purse, self._standing.submitted
        tightest = await purse.tightest()
        left = {unit: None if balance is None else balance.left for unit, balance in tightest.items()}
        nano_usd = left[Unit.NANO_USD]
        value = {
            "usd": None if nano_usd is None else nano_usd / NANO_PER_USD,
            "tokens": left[Unit.TOKENS],
            "sub_calls": left[Unit.SUB_CALLS],
            "seconds": max(0, round(submitted.deadline_at - self._now())),
            "turns": max(0, submitted.limits.turns - self._turns_taken()),
            "depth": max(0, submitted.limits.depth - submitted.depth),
        }
        under_way.items.append(HostCallItem(value=value))
