"""Renaming: what a run's cells and their host calls are called in a copy of it. Pure."""

from dataclasses import dataclass, replace

from service.ids import CallId, CellId, RunId
from service.journal.values import CellRecord
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    HostCallAnswered,
    NamespaceRebuilt,
    RootUnavailable,
    ValueRead,
)
from service.loop.values import Usage
from service.money import NanoUSD


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """From one run to another."""

    source: RunId
    target: RunId

    def cell(self, cell_id: CellId) -> CellId:
        """A cell's id is derived from its run's, so the copy's is too."""
        rest = cell_id.removeprefix(f"{self.source}.")
        return cell_id if rest == cell_id else CellId(f"{self.target}.{rest}")

    def record(self, record: CellRecord) -> CellRecord:
        """What other runs, or the session's caller, did stays theirs."""
        if record.run_id != self.source:
            return record
        return replace(record, run_id=self.target, cell_id=self.cell(record.cell_id))

    def event(self, event: Event, *, at: float, number: int) -> Event | None:
        """The event as the copy has it, at its own time and paid by nobody; None for what is only the source's (its
        sandboxes, what it spent, who drove it).
        """
        match event:
            case CallFinished(origin=None):
                return replace(
                    event,
                    at=at,
                    call_id=CallId(f"{self.target}/inherited/{number}"),
                    usage=Usage(),
                    cost=NanoUSD(0),
                    is_inherited=True,
                )
            case CellFinished():
                return replace(event, at=at, result=replace(event.result, cell_id=self.cell(event.result.cell_id)))
            case HostCallAnswered():
                return replace(event, at=at, key=replace(event.key, cell_id=self.cell(event.key.cell_id)))
            case ValueRead() | RootUnavailable() | NamespaceRebuilt():
                return replace(event, at=at)
            case _:
                return None
