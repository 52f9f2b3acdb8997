"""`budget()`: what is left of the run's limits, as code in a cell may ask."""

from collections.abc import Callable

from service.ledger.redis_ledger import Ledger
from service.loop.events import CallFinished
from service.loop.values import HostCallKey
from service.money import NANO_PER_USD
from service.runs.host_calls.host_calls import HostCall, HostCallItem
from service.runs.standing import Standing


class BudgetReport:
    """Answers `budget()` for one run. A child run sees what is left of the budget it shares."""

    def __init__(
        self, standing: Standing, *, ledger: Ledger, turns_taken: Callable[[], int], now: Callable[[], float]
    ) -> None:
        self._standing = standing
        self._ledger = ledger
        self._turns_taken = turns_taken
        self._now = now

    def remember(self, call: CallFinished) -> None:
        """What was spent is asked of the ledger."""

    async def make(self, call: HostCall, key: HostCallKey, items: list[HostCallItem]) -> None:
        """One item: a dict with what is left, `None` where there is no limit."""
        purse, submitted = self._standing.purse, self._standing.submitted
        balances = await self._ledger.balances(list(purse.limit_rows()))
        left = {
            balance.account.unit.value: None
            if balance.limit is None
            else max(0, balance.limit - balance.spent - balance.held)
            for balance in balances
        }
        nano_usd = left["nano_usd"]
        value = {
            "usd": None if nano_usd is None else nano_usd / NANO_PER_USD,
            "tokens": left["tokens"],
            "sub_calls": left["sub_calls"],
            "seconds": max(0, round(submitted.deadline_at - self._now())),
            "turns": max(0, submitted.limits.turns - self._turns_taken()),
            "depth": max(0, submitted.limits.depth - submitted.depth),
        }
        items.append(HostCallItem(value=value))
