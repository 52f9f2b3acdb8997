"""The sandbox slots below a root run."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from service.runs.dispatch.sandbox_counts import SandboxCount
from service.sandboxes.slots import Chain


@dataclass(frozen=True, slots=True)
class Levels:
    """The guaranteed slots of a root run's descendants, by depth."""

    chain: Chain
    sandboxes: SandboxCount
    first_depth: int

    @asynccontextmanager
    async def slot(self, depth: int) -> AsyncIterator[None]:
        """Hold a slot for one run of this depth, waiting in line for it."""
        level = depth - self.first_depth
        async with AsyncExitStack() as more:
            may_be_spare = False
            if not self.chain.own_is_free(level):
                may_be_spare = await more.enter_async_context(self.sandboxes.maybe_one_more())
            async with self.chain.take(level, may_be_spare=may_be_spare) as kind:
                if kind == "own":
                    await more.aclose()
                yield
