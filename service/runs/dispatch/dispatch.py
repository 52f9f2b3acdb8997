"""The dispatch of one tenant: everything that is asked before something of it is begun, or goes on."""

from collections.abc import Callable, Sequence

from service.ids import KeyId
from service.ledger.redis_ledger import Ledger
from service.runs.dispatch.allowances import Allowances
from service.runs.dispatch.call_admission import CallAdmission, CallLines
from service.runs.dispatch.counts import Counts
from service.runs.dispatch.places import FairPlaces
from service.runs.dispatch.tenant_rules import TenantRules


class Lines:
    """What the tenants of one replica wait for in fair lines. One for each replica."""

    def __init__(self, calls_each_provider: int) -> None:
        self.run_starts = FairPlaces(1)
        """Who is first here is the only one that waits for sandbox slots: so their order is this line's."""
        self.calls = CallLines(calls_each_provider)

    def __repr__(self) -> str:
        return f"<Lines run_starts={self.run_starts!r} calls={self.calls!r}>"


class Dispatch:
    """One tenant's on this replica."""

    def __init__(self, rules: TenantRules, lines: Lines, ledger: Ledger, now: Callable[[], float]) -> None:
        self.tenant = rules.tenant
        self.require_active = rules.require_active
        self.lines = lines
        self.counts = Counts(rules, now)
        self.calls = CallAdmission(rules, lines.calls, self.counts, now)
        self._levels_of = rules.levels_of
        self._allowances = Allowances(ledger, now)

    def __repr__(self) -> str:
        return f"<Dispatch {self.tenant} {self.counts!r} {self.calls!r}>"

    async def set_allowances(self, key_line: Sequence[KeyId]) -> None:
        """See to it that the ledger knows what whoever pays may spend. Called before money is asked for.

        Raises:
            StoreFailed
        """
        await self._allowances.write(await self._levels_of(key_line))
