"""Families: a root run and every run below it, as far as recovery needs to know them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from service.ids import CallId, RunId
from service.journal.redis_journal import Journal
from service.journal.values import Recorded
from service.loop.events import CallFinished, ChildRunFinished, Event, RunFinished, RunSubmitted
from service.loop.values import HostCallKey
from service.store.errors import BlobMissing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run of a family."""

    lineage: tuple[RunId, ...]
    """From the run itself up to its root run."""
    calls: dict[CallId, CallFinished]
    """Its own model calls that stand in its journal."""
    is_finished: bool

    @property
    def run_id(self) -> RunId:
        return self.lineage[0]


def member_of(lineage: tuple[RunId, ...], recorded: Iterable[Recorded]) -> Member:
    """What recovery needs to know of a run."""
    calls: dict[CallId, CallFinished] = {}
    is_finished = False
    for entry in recorded:
        if isinstance(entry.event, CallFinished):
            calls[entry.event.call_id] = entry.event
        is_finished = is_finished or isinstance(entry.event, RunFinished)
    return Member(lineage=lineage, calls=calls, is_finished=is_finished)


async def known_member(journal: Journal, lineage: tuple[RunId, ...]) -> Member:
    """The run that the lineage begins with. Of one whose journal has lost a blob no call is known: what is held for it
    may have been spent."""
    try:
        return member_of(lineage, await journal.read_all(lineage[0]))
    except BlobMissing as exc:
        log.error("journal_incomplete", run_id=lineage[0], why=str(exc))
        return Member(lineage=lineage, calls={}, is_finished=await journal.has_ended(lineage[0]))


async def descendants_of(journal: Journal, lineage: tuple[RunId, ...]) -> list[Member]:
    """Every run below the one that the lineage begins with, parents before their children."""
    found: list[Member] = []
    for child_id in await journal.children_of(lineage[0]):
        child_lineage = (child_id, *lineage)
        found.append(await known_member(journal, child_lineage))
        found.extend(await descendants_of(journal, child_lineage))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownChild:
    """A child run that an earlier driver of its parent has begun."""

    run_id: RunId
    origin: HostCallKey
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownChildren:
    """The children of one run that are there already: a host call that is asked again finds its own."""

    by_origin: Mapping[HostCallKey, KnownChild] = field(default_factory=dict)
    told: set[RunId] = field(default_factory=set)
    """Those whose end their parent's journal knows."""


def known_children(parent: Iterable[Event], journals: Mapping[RunId, Sequence[Recorded]]) -> KnownChildren:
    """What the parent's events and the children's journals tell of the children. Pure."""
    told = {event.child.run_id for event in parent if isinstance(event, ChildRunFinished)}
    by_origin: dict[HostCallKey, KnownChild] = {}
    for run_id, recorded in journals.items():
        first = recorded[0].event if recorded else None
        if isinstance(first, RunSubmitted) and first.origin is not None:
            is_finished = isinstance(recorded[-1].event, RunFinished)
            by_origin[first.origin] = KnownChild(run_id=run_id, origin=first.origin, is_finished=is_finished)
    return KnownChildren(by_origin=by_origin, told=told)
