"""How many sandboxes the runs and sessions of a tenant take of those that it and its keys may have.

As with slots, a run is given what a whole chain of its child runs needs before it begins, so that none waits for ever
for what its own parent holds. Siblings that run beside each other take more while there is more, else turns.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.ids import KeyId, RunId, SessionId
from service.runs.dispatch.counts import Counts
from service.store.fences import Fence
from service.tenants.errors import ConcurrencyLimited, QuotaExceeded
from service.tenants.quotas import Counted
from service.tenants.values import Level


class SandboxCount:
    """Of one root run and all below it."""

    def __init__(self, counts: Counts, run_id: RunId, key_line: tuple[KeyId, ...], fence: Fence) -> None:
        """`fence` is the run's: whoever takes it over counts under the same ids, and what it counts stays."""
        self._fence = fence
        self._counts = counts
        self._run_id = run_id
        self._key_line = key_line
        self._chain: tuple[str, ...] = ()
        self._extras = 0

    def __repr__(self) -> str:
        return f"<SandboxCount of {self._run_id} chain={len(self._chain)}>"

    async def take_chain_now(self, levels: int) -> bool:
        """Take one sandbox for each level at once, if they are to be had."""
        chain = tuple(f"{self._run_id}/{level}" for level in range(levels))
        try:
            await self._counts.take(Counted.SANDBOXES, chain, self._key_line, within=self._fence)
        except ConcurrencyLimited:
            return False
        self._chain = chain
        return True

    async def wait_for_chain(self, levels: int) -> None:
        """The same, as soon as they are. Raises `TenantSuspended`."""
        chain = tuple(f"{self._run_id}/{level}" for level in range(levels))
        await self._counts.wait_for(Counted.SANDBOXES, chain, self._key_line, within=self._fence)
        self._chain = chain

    async def give_chain_back(self) -> None:
        """Idempotent."""
        chain, self._chain = self._chain, ()
        await self._counts.give_back(Counted.SANDBOXES, *chain, within=self._fence)

    @asynccontextmanager
    async def maybe_one_more(self) -> AsyncIterator[bool]:
        """For the time of the block, a sandbox beside those of the chain; or False, and there is none."""
        self._extras += 1
        extra = f"{self._run_id}/more{self._extras}"
        try:
            await self._counts.take(Counted.SANDBOXES, (extra,), self._key_line)
        except ConcurrencyLimited:
            yield False
            return
        try:
            yield True
        finally:
            await self._counts.give_back(Counted.SANDBOXES, extra, within=self._fence)

    async def keep_for(self, session_id: SessionId) -> bool:
        """Count the sandbox that stays with a session when its run has ended; False when that is one too many, or
        somebody waits for one. Called while the run's own still count: where those need not be counted, a session's
        need not either."""
        if not self._counts.are_held(Counted.SANDBOXES, self._chain):
            return True
        if self._counts.are_waited_for(Counted.SANDBOXES):
            return False
        first, *_ = self._chain
        await self._counts.give_back(Counted.SANDBOXES, first, within=self._fence)
        try:
            await self._counts.take(Counted.SANDBOXES, (session_id,), self._key_line)
        except ConcurrencyLimited:
            return False
        return True


def check_chain(levels: int, of: tuple[Level, ...]) -> None:
    """Refuse a run that could never have its sandboxes. Raises `QuotaExceeded`."""
    for level in of:
        most = level.limits.sandboxes
        if most is not None and most < levels:
            raise QuotaExceeded(
                f"a run of depth {levels - 1} needs {levels} sandboxes at once, one for each level of child runs, and "
                f"this {level.kind} may have {most}: lower the depth",
                data={"limit_name": "sandboxes", "level": level.kind, "limit": most, "wanted": levels},
            )
