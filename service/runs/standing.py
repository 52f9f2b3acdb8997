"""Where a run stands: what everything that acts for it needs to know, fixed when it is driven."""

from dataclasses import dataclass

from service.ids import RunId
from service.loop.events import RunSubmitted
from service.models.catalog import Route
from service.runs.calls.purse import Purse
from service.store.fences import NO_FENCE, Fence


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One run on this replica."""

    submitted: RunSubmitted
    lineage: tuple[RunId, ...]
    """From the run itself up to its root run."""
    purse: Purse
    root_route: Route
    sub_route: Route
    epoch: int
    fence: Fence = NO_FENCE
    """What every write for the run is fenced by: the epoch of its root run."""

    @property
    def run_id(self) -> RunId:
        return self.submitted.run_id

    @property
    def may_have_children(self) -> bool:
        """Whether a child run would still be within the depth limit."""
        return self.submitted.depth < self.submitted.limits.depth
