"""The recorder: one run's state on this replica, always exactly what its journal says.

Facts arrive from several tasks at once (the command being performed, host calls, the clock, a cancel request). Each is
appended first and applied afterwards, in journal order, so that a replay passes through the same states.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio

from service.errors import RlmServiceError
from service.ids import RunId
from service.journal.values import Place, Recorded
from service.loop.events import Event
from service.loop.machine import evolve
from service.loop.state import RunState
from service.store.fences import NO_FENCE, Fence
from service.store.riders import Rider


class Appends(Protocol):
    """The one method of the journal that is needed here; a double stands in for it in tests of ordering."""

    async def append(
        self,
        run_id: RunId,
        epoch: int,
        event: Event,
        rider: Rider | None = None,
        *,
        ahead: Sequence[Event] = (),
        within: Fence = NO_FENCE,
    ) -> int:
        """The fact's place in the journal, once it is kept, right behind those that go ahead of it."""
        ...


class Recorder:
    """Appends and applies the events of one run, of which this replica is the only writer (`epoch`)."""

    def __init__(
        self, journal: Appends, run_id: RunId, epoch: int, recorded: list[Recorded], *, within: Fence = NO_FENCE
    ) -> None:
        state: RunState | None = None
        for entry in recorded:
            state = evolve(state, entry.event)
        if state is None:
            raise ValueError(f"the journal of {run_id} is empty")
        self.state: RunState = state
        self.on_applied: Callable[[], None] = lambda: None
        """Called after every applied event; must not block or raise."""
        self._journal = journal
        self._run_id = run_id
        self._epoch = epoch
        self._within = within
        self._next_seq = recorded[-1].seq + 1
        self._early: list[tuple[int, Event]] = []
        self._applied = anyio.Event()
        self._broken: RlmServiceError | None = None
        """The first append that failed: from then on this replica does not know where the journal stands."""

    def __repr__(self) -> str:
        return f"<Recorder {self._run_id} epoch={self._epoch} next={self._next_seq} early={len(self._early)}>"

    async def record(self, event: Event, rider: Rider | None = None, *, ahead: Sequence[Event] = ()) -> Place:
        """Append a fact, with those that go right ahead of it; return its place once it, and everything before it, is
        applied. Cancelled, it may be in the journal.

        Raises:
            StaleEpoch: another replica has taken the run over.
            StoreFailed: nothing was decided on this fact.
        """
        # Shielded: were the task cancelled between the store's yes and the push, the sequence would have a hole.
        with anyio.CancelScope(shield=True):
            try:
                seq = await self._journal.append(
                    self._run_id, self._epoch, event, rider, ahead=ahead, within=self._within
                )
            except RlmServiceError as exc:
                # The event may stand in the journal all the same, and those behind it would wait for it for ever.
                self._broken = exc
                self._announce()
                raise
            for place, each in enumerate((*ahead, event), seq - len(ahead)):
                heapq.heappush(self._early, (place, each))
            self._apply_due()
        while self._next_seq <= seq:
            if self._broken is not None:
                raise self._broken
            await self._applied.wait()
        return Place(run_id=self._run_id, seq=seq)

    def _apply_due(self) -> None:
        while self._early and self._early[0][0] == self._next_seq:
            _, event = heapq.heappop(self._early)
            self.state = evolve(self.state, event)
            self._next_seq += 1
            self._announce()
            self.on_applied()

    def _announce(self) -> None:
        self._applied.set()
        self._applied = anyio.Event()
