"""The purse: which ledger rows a run's calls are charged to, and the wake-up when a hold is resolved.

A child run shares its root's budget, so each call is a row for every run of its lineage, from itself up to the
root run; only the root's rows have limits. A row's `spent` therefore covers the run with everything below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import anyio

from service.ids import RunId
from service.ledger.values import Account, Unit
from service.loop.values import Limits
from service.money import NanoUSD

WAKE_UP_S = 1.0
"""Holds of this run are resolved in this process, which wakes waiters at once; polling covers the rest."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What one call holds or has used, in every unit that the ledger counts."""

    nano_usd: NanoUSD
    tokens: int
    sub_calls: int


NOTHING = Amount(nano_usd=NanoUSD(0), tokens=0, sub_calls=0)


class Purse:
    """Shared by a root run and all its descendants in this process."""

    def __init__(self, root_run_id: RunId, limits: Limits) -> None:
        self.root_run_id = root_run_id
        self.limits = limits
        self.standing = NOTHING
        """Held for the wrap-up call: waiting for it to be released would be waiting for the run's end."""
        self._resolved = anyio.Event()

    def __repr__(self) -> str:
        return f"<Purse of {self.root_run_id} cost={self.limits.cost} standing={self.standing}>"

    def limit_rows(self) -> dict[Account, int | None]:
        """The root's rows with their limits."""
        return {
            Account(level="run", owner=self.root_run_id, unit=Unit.NANO_USD): self.limits.cost,
            Account(level="run", owner=self.root_run_id, unit=Unit.TOKENS): self.limits.tokens,
            Account(level="run", owner=self.root_run_id, unit=Unit.SUB_CALLS): self.limits.sub_calls,
        }

    def standing_in(self, unit: Unit) -> int:
        """How much of a row's `held` is the wrap-up's."""
        return _by_unit(self.standing)[unit]

    def announce_resolved(self) -> None:
        """Wake every call that waits for money: a hold was settled or released."""
        self._resolved.set()
        self._resolved = anyio.Event()

    async def wait_for_resolved(self) -> None:
        """Until some hold is resolved, or `WAKE_UP_S` has passed."""
        resolved = self._resolved
        with anyio.move_on_after(WAKE_UP_S):
            await resolved.wait()


def rows(lineage: tuple[RunId, ...], amount: Amount) -> Mapping[Account, int]:
    """One row per run of the lineage and unit. Zero amounts are left out."""
    by_unit = _by_unit(amount)
    return {
        Account(level="run", owner=run, unit=unit): value for run in lineage for unit, value in by_unit.items() if value
    }


def _by_unit(amount: Amount) -> dict[Unit, int]:
    return {Unit.NANO_USD: int(amount.nano_usd), Unit.TOKENS: amount.tokens, Unit.SUB_CALLS: amount.sub_calls}
