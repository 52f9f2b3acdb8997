"""Replaying: which records of a cell log are done again in a fresh kernel, and what that cannot bring back. Pure.

A replay goes through the log once, in order. It may break off: a cell kills the kernel again, asks for something that
it had not asked for before (it diverged, and whatever it does from then on is made of nothing), or a context has gone
since. Then a smaller plan is begun anew in another kernel, so that nothing of the broken attempt is left behind:

    a record cannot be done again   → without it (a file that there is no place for: in this very attempt)
    a cell diverged                 → without it and every cell after it: they may build on what it did not do
    for the `MAX_ATTEMPTS`th time   → without any cell

What binds contexts, tools and history stays in every plan: a run must never answer from another run's context.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter

from service.ids import CellId
from service.journal.values import CellRecord
from service.loop.values import BlobRef, CellStatus, Message
from service.runs.sessions.bindings import Wanted

MAX_ATTEMPTS = 3
"""With cells in them: an attempt may take as long as the cells took."""
LEAST_RERUN_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenVariable:
    """A variable that the session's caller wrote: a text, or a JSON value, by the blob's media."""

    name: str
    value: BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFile:
    """A file that the session's caller put into the working directory; without content: deleted there."""

    path: str
    content: BlobRef | None


WANTED = TypeAdapter(Wanted)
BLOB = TypeAdapter(BlobRef)
WRITTEN = TypeAdapter(WrittenVariable)
PUT = TypeAdapter(PutFile)
MESSAGES = TypeAdapter(tuple[Message, ...])

Outcome = Literal["same", "other", "left out", "impossible", "diverged"]
"""Of one record done again. `other`: it ended, but not as it did; its variables cannot be relied on. `left out`: there
is no place for a file; the attempt goes on without it."""


@dataclass(slots=True)
class Found:
    """What an attempt that goes on has found so far."""

    others: set[CellId] = field(default_factory=set)
    """Cells that ended otherwise than they had."""
    left_out: set[CellId] = field(default_factory=set)
    """Files that could not be put back, or deleted."""

    def clear(self) -> None:
        """For another attempt."""
        self.others.clear()
        self.left_out.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """How a rebuild went."""

    cells: int
    missing: tuple[str, ...]
    """Variables that could not be brought back."""
    diverged: tuple[CellId, ...] = ()
    """Cells that did not end as they had."""
    missing_files: tuple[str, ...] = ()
    """Paths of files that callers had put there, for which there was no room or no place."""

    @property
    def is_worth_telling(self) -> bool:
        """Whether there was anything to do, or to fail."""
        return bool(self.cells or self.missing or self.diverged or self.missing_files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What of a cell log is to be done again."""

    records: tuple[CellRecord, ...]
    left_out: frozenset[CellId]
    diverged: frozenset[CellId] = frozenset()
    """Cells at which attempts broke off."""
    attempts: int = 1

    @property
    def due(self) -> list[CellRecord]:
        """What is to be done, in order."""
        return [record for record in self.records if record.cell_id not in self.left_out]

    def without(self, broken: CellRecord, outcome: Outcome) -> "Plan":
        """What is left to try after an attempt that broke off there. Always less, so that it comes to an end."""
        given_up: tuple[CellRecord, ...] = ()
        if self.attempts >= MAX_ATTEMPTS:
            given_up = self.records
        elif outcome == "diverged":
            given_up = self.records[self.records.index(broken) :]
        cells = {record.cell_id for record in given_up if record.kind == "cell"}
        diverged = self.diverged | ({broken.cell_id} if broken.kind == "cell" else set())
        left_out = self.left_out | cells | {broken.cell_id}
        return replace(self, left_out=left_out, diverged=diverged, attempts=self.attempts + 1)

    def rebuilt(self, found: Found) -> Rebuilt:
        """What an attempt that came to its end has brought back."""
        diverged = self.diverged | found.others
        unreliable = self.left_out | diverged
        missing: set[str] = set()
        for record in self.records:
            if record.cell_id in unreliable:
                missing.update(_names(record))
            else:
                missing.difference_update(_names(record))
        return Rebuilt(
            cells=sum(record.kind == "cell" for record in self.due),
            missing=tuple(sorted(missing)),
            diverged=tuple(record.cell_id for record in self.records if record.cell_id in diverged),
            missing_files=self._missing_files(found.left_out),
        )

    def _missing_files(self, left_out: set[CellId]) -> tuple[str, ...]:
        """By the last record of each path: one that was put again, or deleted, is not missing."""
        is_there: dict[str, bool] = {}
        for record in self.records:
            if record.kind == "file":
                put = PUT.validate_json(record.code)
                is_there[put.path] = put.content is None or record.cell_id not in left_out
        return tuple(sorted(path for path, is_so in is_there.items() if not is_so))


def plan_for(records: Iterable[CellRecord]) -> Plan:
    """Everything but what cannot be repeated: what killed the kernel would kill it again, and what was cut short
    cannot be cut at the same point."""
    whole = _since_restart(tuple(records))
    cut = (CellStatus.KILLED, CellStatus.TIMED_OUT)
    left_out = {record.cell_id for record in whole if record.status in cut or record.was_interrupted}
    return Plan(records=whole, left_out=frozenset(left_out))


def _since_restart(records: tuple[CellRecord, ...]) -> tuple[CellRecord, ...]:
    """What a restart emptied is not brought back; what it left alone is the files."""
    restarts = [place for place, record in enumerate(records) if record.kind == "restart"]
    if not restarts:
        return records
    files = tuple(record for record in records[: restarts[-1]] if record.kind == "file")
    return files + records[restarts[-1] + 1 :]


def rerun_limit_s(record: CellRecord) -> float:
    """Of the cell's time, done again: its host calls are answered at once, but the machine may be busier."""
    return max(LEAST_RERUN_S, 2 * record.active_s)


def _names(record: CellRecord) -> list[str]:
    """What the record brings into the namespace."""
    match record.kind:
        case "cell":
            return list(record.variables)
        case "history":
            return ["history"]
        case "variable":
            return [WRITTEN.validate_json(record.code).name]
        case "file" | "restart":
            return []
        case "bind":
            wanted = WANTED.validate_json(record.code)
            contexts = [f"context_{index}" for index in range(len(wanted.contexts))]
            histories = [f"history_{index}" for index in range(len(wanted.histories))]
            aliases = [binding.variable for binding in wanted.contexts if binding.variable is not None]
            first = ["context"][: len(contexts)] + ["history"][: len(histories)]
            return [*contexts, *histories, *aliases, *first, *(tool.name for tool in wanted.tools)]
