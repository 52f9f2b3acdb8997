"""The purse: which accounts a run's calls are charged to, and the wake-up when a hold is resolved.

A child run shares its root's budget, so a call is charged to every run of its lineage, from itself up to the root run,
then to the session, the API key and the tenant that the root run belongs to. An account's `spent` therefore covers the
run with everything below it. Of the runs only the root has limits.
"""

import anyio

from service.ids import RunId
from service.ledger.redis_ledger import Ledger
from service.ledger.values import NOTHING, Account, Amount, Balance, Level, Refusal, Unit
from service.loop.events import RunSubmitted
from service.money import NanoUSD
from service.runs.calls.errors import budget_error
from service.runs.calls.gate import CallGate
from service.store.fences import NO_FENCE, Fence

WAKE_UP_S = 1.0
"""Holds of this run are resolved in this process, which wakes who waits at once; polling covers the rest."""


class Purse:
    """Shared by a root run and all its descendants in this process."""

    def __init__(
        self, root: RunSubmitted, ledger: Ledger, *, fence: Fence = NO_FENCE, gate: CallGate | None = None
    ) -> None:
        self.root_run_id = root.run_id
        self.limits = root.limits
        self.standing: Amount = NOTHING
        """Held for the wrap-up call: waiting for it to be released would be waiting for the run's end."""
        self.own_account = run_account(root.run_id)
        session = () if root.is_direct else (Account(level=Level.SESSION, owner=root.session_id),)
        self.outer_accounts = (*session, *ledger.outer_accounts(root.key_line))
        self.key_line = root.key_line
        self.fence = fence
        """Of every hold for the run, or one below it: nobody may spend for a run that was taken over."""
        self.gate = gate or CallGate()
        self.line = anyio.Lock()
        """Held by the first of those who wait for money that calls in flight hold; first come, first served. Only it
        asks again when some was given back: were all to ask, a thousand who wait would ask a million times."""
        self.resolutions = 0
        """Holds that were settled or released in this process so far."""
        self._ledger = ledger
        self._resolved = anyio.Event()

    def __repr__(self) -> str:
        return f"<Purse of {self.root_run_id} cost={self.limits.cost} standing={self.standing}>"

    def accounts(self, lineage: tuple[RunId, ...]) -> tuple[Account, ...]:
        """What a call of this lineage is charged to, nearest first."""
        return (*(run_account(run_id) for run_id in lineage), *self.outer_accounts)

    async def set_limits(self) -> None:
        """Write the root run's limits down. Idempotent."""
        await self._ledger.set_limits(self._own_limits())

    async def lift_limits(self) -> None:
        """Forget them: the run never came to be. Idempotent."""
        await self._ledger.set_limits(dict.fromkeys(self._own_limits()))

    async def tightest(self) -> dict[Unit, Balance | None]:
        """In each unit, the account that has least left, of all that the root run is charged to; None without limit."""
        balances = await self._ledger.balances((self.own_account, *self.outer_accounts), tuple(Unit))
        return {unit: tightest([balance for balance in balances if balance.unit is unit]) for unit in Unit}

    async def outer_left(self) -> NanoUSD | None:
        """What session, key or tenant has left, whichever has least; None when none of them is limited."""
        least = tightest(await self._ledger.balances(self.outer_accounts))
        return None if least is None or least.left is None else NanoUSD(least.left)

    async def check_covers(self, amount: Amount) -> None:
        """Refuse what session, key or tenant cannot pay, before anything is written. It holds nothing yet.

        Raises:
            BudgetExceeded, BudgetInFlight: the account that would refuse.
        """
        for balance in await self._ledger.balances(self.outer_accounts, tuple(Unit)):
            asked = amount.of(balance.unit)
            if balance.left is not None and asked > balance.left:
                raise budget_error(refusal_of(balance, asked))

    def _own_limits(self) -> dict[tuple[Account, Unit], int]:
        limits = {
            Unit.NANO_USD: self.limits.cost,
            Unit.TOKENS: self.limits.tokens,
            Unit.SUB_CALLS: self.limits.sub_calls,
        }
        return {(self.own_account, unit): limit for unit, limit in limits.items() if limit is not None}

    def announce_resolved(self) -> None:
        """Wake the call that waits for money first: a hold was settled or released."""
        self.resolutions += 1
        self._resolved.set()
        self._resolved = anyio.Event()

    async def wait_for_resolved(self, since: int) -> None:
        """Until more holds are resolved than `since`, or `WAKE_UP_S` has passed."""
        if self.resolutions == since:
            resolved = self._resolved
            with anyio.move_on_after(WAKE_UP_S):
                await resolved.wait()


def run_account(run_id: RunId) -> Account:
    return Account(level=Level.RUN, owner=run_id)


def tightest(balances: list[Balance]) -> Balance | None:
    """The one with least left; None when none has a limit."""
    limited = [(balance.left, at) for at, balance in enumerate(balances) if balance.left is not None]
    return balances[min(limited)[1]] if limited else None


def refusal_of(balance: Balance, asked: int) -> Refusal:
    """How the account would refuse what it has not left."""
    assert balance.limit is not None, "only a limit refuses"
    return Refusal(
        account=balance.account,
        unit=balance.unit,
        asked=asked,
        limit=balance.limit,
        spent=balance.spent,
        held=balance.held,
        resets_at=balance.resets_at,
    )
