"""A tenure: this replica's time with one root run and every run below it, from the claim to the end.

It ends with the run; or because somebody else has the run (lost), or because it is left to others (handed over, or the
store did not do its work). A run that was lost or left is not finished: nothing is written for it here any more, and
whoever claims it next goes on from its journal.
"""

import anyio

from service.errors import failures_in
from service.ids import RunId
from service.journal.values import Claimed
from service.runs.calls.gate import CallGate
from service.store.errors import StaleEpoch, StoreFailed
from service.store.fences import Fence

HAND_OVER_S = 20.0
"""How long a run may still finish the model calls that are in flight before it is handed over without them."""


class Tenure:
    """Shared by everything that acts for a root run and the runs below it on this replica."""

    def __init__(self, run_id: RunId, claimed: Claimed, fence: Fence, *, hands_over: bool) -> None:
        self.run_id = run_id
        self.epoch = claimed.epoch
        self.was_driven = claimed.was_driven
        self.fence = fence
        """Of every write for the run or one below it."""
        self.gate = CallGate()
        self.scope = anyio.CancelScope()
        """What happens for the run here happens within it."""
        self.is_over = False
        """Lost or handed over."""
        self._hands_over = hands_over

    def __repr__(self) -> str:
        return f"<Tenure {self.run_id} epoch={self.epoch} {'over' if self.is_over else 'on'} {self.gate!r}>"

    def end(self) -> None:
        """The run is somebody else's, now or from now on: stop, and write nothing more."""
        self.is_over = True
        self.scope.cancel()

    async def hand_over(self) -> None:
        """Stop at the next safe point: when no model call is in flight, or it has taken `HAND_OVER_S`."""
        self.gate.shut()
        with anyio.move_on_after(HAND_OVER_S):
            await self.gate.wait_until_idle()
        self.end()

    def is_left_after(self, failure: BaseException) -> bool:
        """Whether a run stays as it is after this failure or cancellation, for whoever claims it next."""
        if self.is_over:
            return True
        failures = failures_in(failure)
        if any(isinstance(each, StaleEpoch) for each in failures):
            return True
        if not self._hands_over:
            return False
        return any(isinstance(each, StoreFailed) or not isinstance(each, Exception) for each in failures)

    @property
    def ends_when_cancelled(self) -> bool:
        """Whether a task that is cancelled from outside has to bring its run to an end first."""
        return not self.is_over and not self._hands_over
