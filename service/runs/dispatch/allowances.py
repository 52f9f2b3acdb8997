"""Allowances: what a tenant and its keys may spend by day and month, as their records say, as limits of their accounts.

The records and the accounts are two rooms that do not know each other. This is where the one becomes the other: before
money is asked for, the limits of everybody who would pay are written to the ledger, if they are others than those that
this replica wrote last.
"""

from collections.abc import Callable, Sequence

from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Period, Unit
from service.ledger.values import Level as AccountLevel
from service.tenants.recent import Recent
from service.tenants.values import Level

WRITTEN_AGAIN_S = 60.0
"""Two replicas that write different limits at the same time agree after this at the latest."""
REMEMBERED_ACCOUNTS = 10_000


class Allowances:
    """Those of one tenant."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._written: Recent[Account, int | str] = Recent(REMEMBERED_ACCOUNTS, WRITTEN_AGAIN_S, now)

    def __repr__(self) -> str:
        return f"<Allowances written={self._written!r}>"

    async def write(self, levels: Sequence[Level]) -> None:
        """See to it that the ledger has the limits of these levels. Idempotent, and mostly free.

        Raises:
            StoreFailed: nobody knows what may be spent, so nothing may be.
        """
        found = {account: most for level in levels for account, most in _limits(level)}
        new = {account: most for account, most in found.items() if self._written.get(account) != _remembered(most)}
        if not new:
            return
        await self._ledger.set_limits({(account, Unit.NANO_USD): most for account, most in new.items()})
        for account, most in new.items():
            self._written.put(account, _remembered(most))


def _limits(level: Level) -> list[tuple[Account, int | None]]:
    account_level = AccountLevel.TENANT if level.kind == "tenant" else AccountLevel.KEY
    return [
        (Account(level=account_level, owner=level.owner, period=period), most)
        for period, most in (
            (Period.DAY, level.limits.nano_usd_per_day),
            (Period.MONTH, level.limits.nano_usd_per_month),
        )
    ]


def _remembered(most: int | None) -> int | str:
    """Told apart from what was never written."""
    return "no limit" if most is None else most
