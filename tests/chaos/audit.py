"""The audit: journals, ledger, provider and machine compared, once everything has come to rest.

Each finding is a sentence under one of the four figures.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from service.ids import EMBEDDED_TENANT, RunId
from service.journal.redis_journal import Journal
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Entry
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    NamespaceRebuilt,
    RunFinished,
    RunSubmitted,
    RunTakenOver,
)
from service.loop.values import CallOutcome, CellStatus, StopReason
from service.runs.calls.purse import run_account
from service.settings import read_settings
from service.store.connection import Store
from service.store.keys import Keys
from service.tenants.quotas import LEASE_S, Counted
from service.wiring.blobs import open_blobs
from tests.chaos import variables
from tests.chaos.calls_compared import compare_calls
from tests.chaos.clients import Seen
from tests.chaos.faults import Strike
from tests.chaos.plays import Play
from tests.chaos.processes import alive_of
from tests.chaos.upstream import Asked
from tests.chaos.variables import Told

AFTER_A_FAULT_S = LEASE_S / 2
"""How long after a fault a replica may still renew the place of a run that it lost by it, which then lapses: it renews
every third of a lease's time, and has to notice the loss first."""


@dataclass(eq=False)
class Findings:
    """What was found wrong, and some of what was seen."""

    lost: list[str] = field(default_factory=list)
    paid_twice: list[str] = field(default_factory=list)
    ledger_off: dict[str, int] = field(default_factory=dict)
    """By what is off, in nano-USD."""
    leaked: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, others: "Findings") -> None:
        """Those of another campaign."""
        self.lost += others.lost
        self.paid_twice += others.paid_twice
        self.ledger_off |= others.ledger_off
        self.leaked += others.leaked
        self.counts += others.counts

    def is_off(self, what: str, nano_usd: int) -> None:
        if nano_usd:
            self.ledger_off[what] = abs(nano_usd)

    def sentences(self) -> list[str]:
        return [
            *(f"lost: {each}" for each in self.lost),
            *(f"paid twice: {each}" for each in self.paid_twice),
            *(f"ledger off by {amount} nano-USD: {what}" for what, amount in self.ledger_off.items()),
            *(f"leaked: {each}" for each in self.leaked),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the service wrote down about one root run and those below it."""

    run_id: RunId
    events: dict[RunId, list[Event]]
    entries: list[Entry]

    @property
    def calls(self) -> list[CallFinished]:
        return [event for events in self.events.values() for event in events if isinstance(event, CallFinished)]

    @property
    def ends(self) -> dict[RunId, RunFinished]:
        return {run_id: event for run_id, events in self.events.items() for event in events[-1:] if is_end(event)}

    @property
    def rests_on_lost_children(self) -> bool:
        """Whether a child run ended because its sandbox was lost: its parent may have worked with what that one had."""
        return any(
            end.stop_reason is StopReason.SANDBOX_LOST for run_id, end in self.ends.items() if run_id != self.run_id
        )

    @property
    def direct_cells(self) -> list[CellFinished]:
        """Of a run without a root LM: how its cell ended."""
        first, *others = self.events[self.run_id]
        is_direct = isinstance(first, RunSubmitted) and first.code is not None
        return [event for event in others if is_direct and isinstance(event, CellFinished)]

    @property
    def lost_sandboxes_at(self) -> list[float]:
        """When the run, and those below it, ended because their sandboxes were lost. A direct cell that ends with its
        kernel is not run again."""
        lost = [end.at for end in self.ends.values() if end.stop_reason is StopReason.SANDBOX_LOST]
        return lost + [cell.at for cell in self.direct_cells if cell.result.status is CellStatus.KILLED]

    @property
    def uncertain(self) -> int:
        """Calls that were in flight when their replica was lost."""
        return sum(call.outcome is CallOutcome.CANCELLED for call in self.calls)


def is_end(event: Event) -> TypeGuard[RunFinished]:
    return isinstance(event, RunFinished)


def is_excused(cell: CellFinished) -> bool:
    """Whether what a direct cell printed says nothing: it was killed, or did not find a variable."""
    raised = cell.result.raised
    return cell.result.status is CellStatus.KILLED or (raised is not None and raised.type_name == "NameError")


class Auditor:
    """Reads what the service keeps, past the service."""

    def __init__(self, store: Store, data_directory: Path) -> None:
        settings = read_settings({"RLM_DATA_DIR": str(data_directory), "HOME": str(data_directory)})
        self._store = store
        self._keys = Keys(EMBEDDED_TENANT)
        self._journal = Journal(store, open_blobs(settings, EMBEDDED_TENANT), EMBEDDED_TENANT)
        self._ledger = Ledger(store, EMBEDDED_TENANT, lambda: 0.0)

    async def books(self, run_id: RunId) -> Books:
        family = await self._family(run_id)
        return Books(
            run_id=run_id,
            events={each: [entry.event for entry in await self._journal.read_all(each)] for each in family},
            entries=[entry for each in family for entry in await self._ledger.entries(each)],
        )

    async def _family(self, run_id: RunId) -> list[RunId]:
        found = [run_id]
        for child in await self._journal.children_of(run_id):
            found += await self._family(child)
        return found

    async def spent_and_held(self, run_id: RunId) -> tuple[int, int]:
        (balance,) = await self._ledger.balances([run_account(run_id)])
        return balance.spent, balance.held

    async def unfinished(self) -> list[RunId]:
        reply = await self._store.read("ZRANGE", self._keys("runs", "unfinished"), 0, -1)
        assert isinstance(reply, list)
        return [RunId(member.decode()) for member in reply if isinstance(member, bytes)]

    async def leaked_keys(self) -> list[str]:
        """Holds that nobody resolved, and what runs out by itself when nobody needs it but was left for ever."""
        found = [f"hold {call_id}" for call_id in await self._ledger.open_holds()]
        names = await self._store.read("KEYS", self._keys("*"))
        assert isinstance(names, list)
        for name in sorted(name.decode() for name in names if isinstance(name, bytes)):
            kind, _, owner = name.removeprefix(self._keys("")).partition(":")
            if kind in ("hold", "request", "rate") and await self._store.read("TTL", name) == -1:
                found.append(f"key {name} without an end")
            whose = self._keys(kind, owner.partition(":")[0])
            if kind in ("session", "run") and not await self._store.read("EXISTS", whose):
                found.append(f"key {name} of nothing that there is")
        return found

    async def leaked_leases(self, left_alone_at: float) -> list[str]:
        """What is counted still when all replicas have ended: open sessions, and work for which a place was taken after
        the last fault that may have kept anybody from giving it back."""
        found: list[str] = []
        for counted in Counted:
            reply = await self._store.read(
                "ZRANGE", self._keys("quota", counted, "tenant", EMBEDDED_TENANT), 0, -1, "WITHSCORES"
            )
            assert isinstance(reply, list)
            for lease, lapses_at in zip(reply[::2], reply[1::2], strict=True):
                assert isinstance(lease, bytes)
                assert isinstance(lapses_at, bytes)
                is_left = float(lapses_at) - LEASE_S > left_alone_at + AFTER_A_FAULT_S
                if is_left and counted is not Counted.OPEN_CONTEXTS:
                    found.append(f"place {lease.decode()} among {counted}")
        return found


def check_clients(seen: Sequence[Seen], books_of: Mapping[str, Books], findings: Findings) -> None:
    """Every run has ended as if undisturbed, or as the journals explain: its sandbox was lost, or one of a child run's
    whose answer it works with, or variables that it was told are missing. `books_of` are the runs' own, by their ids.
    """
    told: defaultdict[str, Told] = defaultdict(Told)
    for each in seen:
        findings.counts[each.stop_reason or "none"] += 1
        books = None if each.run_id is None else books_of.get(each.run_id)
        silent = [] if books is None else _silent_losses(each.play, books, told[each.session_id or each.play.tag])
        findings.lost += [f"{each.play.tag}: {sentence}" for sentence in silent]
        complaint = each.complaint or _complaint(each, books)
        if complaint:
            findings.lost.append(f"{each.play.tag} ({each.run_id}) {complaint}")


def _complaint(seen: Seen, books: Books | None) -> str:
    """Why the end that a client saw is none that it should see; empty where it is in order."""
    if seen.stop_reason == StopReason.SANDBOX_LOST:
        return ""  # `check_sandboxes` asks what it was lost to
    if seen.stop_reason not in (StopReason.ANSWERED, StopReason.CELL_DONE):
        return f"ended as {seen.stop_reason}"
    if seen.answer == seen.play.answer or books is None:
        return ""
    if books.rests_on_lost_children:
        return ""
    if seen.play.kind == "cell" and all(is_excused(cell) for cell in books.direct_cells):
        return ""  # `check_sandboxes` and `_silent_losses` ask for the reason
    return f"answered {seen.answer!r}, not {seen.play.answer!r}"


def _silent_losses(play: Play, books: Books, told: Told) -> list[str]:
    """Names that cells of the run, or of those below it, did not find although nobody had been told of their loss."""
    found = variables.silent_losses(books.events[books.run_id], told, binds=play.binds)
    for run_id, events in books.events.items():
        if run_id != books.run_id:
            found += variables.silent_losses(events, Told())
    return found


def check_sandboxes(books: Iterable[Books], struck: Sequence[Strike], findings: Findings) -> None:
    """Runs that lost their sandboxes lost them to faults in sandboxes, each to one of its own that had begun before."""
    ends = sorted(at for each in books for at in each.lost_sandboxes_at)
    for count, at in enumerate(ends, start=1):
        explained = sum(strike.loses for strike in struck if strike.at <= at)
        if count > explained:
            findings.lost.append(f"{count} runs had lost their sandboxes when faults explained {explained:.0f}")


def check_books(books: Books, arrived: Sequence[Asked], spent: int, held: int, findings: Findings) -> None:
    """One root run's journals, entries and balance name the same money, and the provider the same calls."""
    run_id = books.run_id
    for member, events in books.events.items():
        if not events or not isinstance(events[-1], RunFinished):
            findings.lost.append(f"{member} has not ended")
        for event in events:
            if isinstance(event, RunTakenOver):
                findings.counts["taken over"] += 1
            elif isinstance(event, NamespaceRebuilt):
                findings.counts["namespaces rebuilt"] += 1
                findings.counts["namespaces rebuilt in part"] += bool(event.missing)
    calls = books.calls
    journalled = sum(call.cost for call in calls)
    booked = sum(entry.nano_usd for entry in books.entries)
    findings.is_off(f"{run_id}: entries against journals", booked - journalled)
    findings.is_off(f"{run_id}: balance against entries", spent - booked)
    findings.is_off(f"{run_id}: still held", held)
    ends = [event for event in books.events[run_id] if isinstance(event, RunFinished)]
    findings.is_off(f"{run_id}: what it said that it spent", sum(end.spent for end in ends) - journalled)
    findings.counts["calls"] += len(arrived)
    findings.counts["uncertain calls"] += books.uncertain
    compared = compare_calls(books.calls, books.entries, arrived)
    findings.paid_twice += [f"{run_id}: {each}" for each in compared.made_again]
    for what, amount in compared.off.items():
        findings.is_off(f"{run_id}: {what}", amount)


def check_left_behind(data_directory: Path, findings: Findings) -> None:
    """After every replica has ended in good order: no process, no session directory and no socket of theirs."""
    sessions = data_directory / "sessions"
    findings.leaked += [f"process {each.pid}" for each in alive_of(sessions)]
    findings.leaked += [f"session file {path.name}" for path in sorted(sessions.iterdir())]
    findings.leaked += [f"socket {path.name}" for path in sorted(data_directory.glob("*.sock"))]
