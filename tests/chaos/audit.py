"""The audit: journals, ledger, provider and machine compared, once everything has come to rest.

Each finding is a sentence under one of the four figures.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.ids import EMBEDDED_TENANT, RunId
from service.journal.redis_journal import Journal
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Entry
from service.loop.events import CallFinished, Event, NamespaceRebuilt, RunFinished, RunTakenOver
from service.loop.values import CallOutcome, StopReason
from service.runs.calls.purse import run_account
from service.settings import read_settings
from service.store.connection import Store
from service.store.keys import Keys
from service.wiring.blobs import open_blobs
from tests.chaos.calls_compared import compare_calls
from tests.chaos.clients import Seen
from tests.chaos.faults import IN_SANDBOXES
from tests.chaos.processes import alive_of
from tests.chaos.upstream import Asked

EXPLAINED = frozenset({StopReason.SANDBOX_LOST})
"""Stop reasons that faults in sandboxes explain. No other fault may end a run."""


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
    def rests_on_lost_children(self) -> bool:
        """Whether a child run ended because its sandbox was lost: its parent may have worked with what that one had."""
        ends = [events[-1] for run_id, events in self.events.items() if run_id != self.run_id and events]
        return any(isinstance(end, RunFinished) and end.stop_reason is StopReason.SANDBOX_LOST for end in ends)

    @property
    def uncertain(self) -> int:
        """Calls that were in flight when their replica was lost."""
        return sum(call.outcome is CallOutcome.CANCELLED for call in self.calls)


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
            kind = name.removeprefix(self._keys("")).partition(":")[0]
            if kind in ("hold", "request") and await self._store.read("TTL", name) == -1:
                found.append(f"key {name} without an end")
        return found


def check_clients(
    seen: Sequence[Seen], struck: frozenset[str], rest_on_lost: Collection[str], findings: Findings
) -> None:
    """Every run has ended as if undisturbed, or as a fault explains. `struck` are the first words of what did;
    `rest_on_lost` are runs whose children lost their sandboxes."""
    sandboxes_were_struck = bool(struck & IN_SANDBOXES)
    for each in seen:
        findings.counts[each.stop_reason or "none"] += 1
        if each.complaint:
            findings.lost.append(f"{each.play.tag} ({each.run_id}): {each.complaint}")
        elif each.stop_reason == StopReason.ANSWERED:
            if each.answer != each.play.answer and not (each.run_id in rest_on_lost and sandboxes_were_struck):
                findings.lost.append(
                    f"{each.play.tag} ({each.run_id}) answered {each.answer!r}, not {each.play.answer!r}"
                )
        elif not (each.stop_reason in EXPLAINED and sandboxes_were_struck):
            findings.lost.append(f"{each.play.tag} ({each.run_id}) ended as {each.stop_reason}")


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
