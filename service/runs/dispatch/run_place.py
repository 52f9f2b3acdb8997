"""The place of a root run among those of its tenant: queued from its submission, worked on from its turn to its end."""

from service.ids import KeyId, RunId
from service.runs.dispatch.counts import Counts
from service.tenants.errors import ConcurrencyLimited
from service.tenants.quotas import Counted


class RunPlace:
    """Whoever submits a run enters; whoever drives it, here or elsewhere, waits for its turn."""

    def __init__(self, counts: Counts, run_id: RunId, key_line: tuple[KeyId, ...]) -> None:
        self._counts = counts
        self._run_id = run_id
        self._key_line = key_line

    def __repr__(self) -> str:
        return f"<RunPlace of {self._run_id}>"

    async def enter(self, *, begins_at_once: bool) -> None:
        """Before the run is written down: among those that are worked on if it can begin, else into the queue.

        Raises:
            ConcurrencyLimited: as many wait as may, of its tenant or a key.
        """
        if begins_at_once and not self._counts.are_waited_for(Counted.PARALLEL_RUNS):
            try:
                await self._counts.take(Counted.PARALLEL_RUNS, (self._run_id,), self._key_line)
            except ConcurrencyLimited:
                pass
            else:
                return
        await self._counts.take(Counted.QUEUED_RUNS, (self._run_id,), self._key_line)

    async def wait_for_turn(self) -> None:
        """Until the run may be worked on beside the others of its tenant and keys.

        Raises:
            TenantSuspended: it never will.
        """
        await self._counts.wait_for(Counted.PARALLEL_RUNS, (self._run_id,), self._key_line)

    async def has_begun(self) -> None:
        """It has its sandbox slots, too, and makes room in the queue."""
        await self._counts.give_back(Counted.QUEUED_RUNS, self._run_id)
