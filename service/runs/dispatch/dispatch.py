"""The dispatch of one tenant: everything that is asked before something of it is begun, or goes on."""

from collections.abc import Callable, Sequence

from service.ids import KeyId, RunId
from service.ledger.redis_ledger import Ledger
from service.loop.events import RunSubmitted
from service.runs.dispatch.allowances import Allowances
from service.runs.dispatch.call_admission import CallAdmission, CallLines
from service.runs.dispatch.counts import Counts
from service.runs.dispatch.places import FairPlaces
from service.runs.dispatch.run_place import RunPlace
from service.runs.dispatch.sandbox_counts import SandboxCount, check_chain
from service.runs.dispatch.tenant_rules import TenantRules
from service.store.fences import NO_FENCE, Fence
from service.tenants.quotas import Counted
from service.tenants.values import Level

_OF_RUNS = (Counted.QUEUED_RUNS, Counted.PARALLEL_RUNS)


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
        self.counts = Counts(rules)
        self.calls = CallAdmission(rules, lines.calls, self.counts, now)
        self._levels_of = rules.levels_of
        self._allowances = Allowances(ledger, now)

    async def levels_of(self, key_line: Sequence[KeyId]) -> tuple[Level, ...]:
        """The levels at which a key's work counts now; the tenant's first. Raises `StoreFailed`."""
        return await self._levels_of(key_line)

    def __repr__(self) -> str:
        return f"<Dispatch {self.tenant} {self.counts!r} {self.calls!r}>"

    async def set_allowances(self, key_line: Sequence[KeyId]) -> None:
        """See to it that the ledger knows what whoever pays may spend. Called before money is asked for.

        Raises:
            StoreFailed
        """
        await self._allowances.write(await self._levels_of(key_line))

    def place_of(self, submitted: RunSubmitted) -> RunPlace:
        """The place of a root run, which may be held already."""
        return RunPlace(self.counts, submitted.run_id, submitted.key_line)

    async def run_has_ended(self, run_id: RunId) -> None:
        """Or never came to be: its place is free. Idempotent."""
        for counted in _OF_RUNS:
            await self.counts.give_back(counted, run_id)

    def run_was_left(self, run_id: RunId) -> None:
        """Another replica drives the run, or will: its place stays taken until that one has it."""
        for counted in _OF_RUNS:
            self.counts.leave_to_others(counted, run_id)

    def sandboxes_of(self, submitted: RunSubmitted, fence: Fence = NO_FENCE) -> SandboxCount:
        """What a root run takes of its tenant's sandboxes, for as long as the fence stands; nothing yet."""
        return SandboxCount(self.counts, submitted.run_id, submitted.key_line, fence)

    async def check_chain(self, submitted: RunSubmitted) -> None:
        """Raises `QuotaExceeded` for a run that goes deeper than its tenant or a key may have sandboxes."""
        check_chain(submitted.limits.depth + 1, await self._levels_of(submitted.key_line))
