"""Which cells have run: the promise that one id never runs twice in one kernel, and that no result is lost.

A result is kept until a later cell acknowledges it, so the host may lose its connection and ask again.
When a kernel's life is over its ids may run again: that is how a namespace is rebuilt.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from threading import Condition

MAX_RESULTS_KEPT = 32


class Verdict(Enum):
    """What to do with a request to run a cell."""

    RUN = "run"
    WAIT = "wait"
    BUSY = "busy"
    KEPT = "kept"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True)
class Looked:
    verdict: Verdict
    result: bytes = b""


class CellBook:
    """Results are kept as they go on the wire."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._running: str | None = None
        self._results: OrderedDict[str, bytes] = OrderedDict()
        self._ran: set[str] = set()

    @property
    def running(self) -> str | None:
        return self._running

    def begin(self, cell_id: str, acknowledges: str | None) -> Looked:
        """Register a cell that is to run, or say why it must not. `RUN` obliges the caller to `finish` it."""
        with self._changed:
            looked = self._look(cell_id)
            if looked.verdict is Verdict.RUN:
                if acknowledges is not None:
                    self._results.pop(acknowledges, None)
                self._running = cell_id
                self._ran.add(cell_id)
            return looked

    def look(self, cell_id: str) -> Looked:
        """The same question without running it: `RUN` means that it is unknown."""
        with self._changed:
            return self._look(cell_id)

    def _look(self, cell_id: str) -> Looked:
        if self._running == cell_id:
            return Looked(Verdict.WAIT)
        if cell_id in self._results:
            return Looked(Verdict.KEPT, self._results[cell_id])
        if cell_id in self._ran:
            return Looked(Verdict.FORGOTTEN)
        return Looked(Verdict.RUN if self._running is None else Verdict.BUSY)

    def finish(self, cell_id: str, result: bytes, *, namespace_lost: bool) -> None:
        with self._changed:
            if namespace_lost:
                self._results.clear()
                self._ran = {cell_id}
            self._results[cell_id] = result
            while len(self._results) > MAX_RESULTS_KEPT:
                self._results.popitem(last=False)
            self._running = None
            self._changed.notify_all()

    def withdraw(self, cell_id: str) -> None:
        """It did not run after all. No effect on a cell that has finished."""
        with self._changed:
            if self._running == cell_id:
                self._ran.discard(cell_id)
                self._running = None
                self._changed.notify_all()

    def wait(self, cell_id: str, timeout_s: float) -> bool:
        """Whether it is no longer running, after at most this long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running != cell_id, timeout_s)

    def start_life(self) -> None:
        """The kernel was replaced: its ids may run again, and their old results would be lies."""
        with self._changed:
            self._results.clear()
            self._ran.clear()
