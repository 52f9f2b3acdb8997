"""Host calls: what the code of one run may ask of the service, and the records that make it repeatable.

A call is known by its key: cell, function, hash of the arguments, ordinal among equals. Its answer is journalled
before the code sees it, so a re-run of the cell gets the same answer, no model is called and nothing is paid twice.

    a record exists            → the recorded answer
    the same call is under way → its answer (the sandbox lost its connection and asks again)
    the cell is being re-run   → divergence: no model is called, the rebuild stops
    the cell is the open one   → it goes live
    anything else              → refused: between cells a leftover thread may not spend the next run's money

A cell that ends leaves calls under way where it was broken off, or where its threads made them. Nothing more is begun
for these: what is in flight is finished and booked, and the rest of a batch is not made.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.abc

from service.errors import Fault, NotFound, RlmServiceError
from service.ids import CellId
from service.journal.values import Place
from service.loop.events import CallFinished, Event, HostCallAnswered
from service.loop.values import HostCallKey
from service.runs.host_calls.answers import KEPT_CHARS, LARGE_CHARS, Answers
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import NOT_STARTED, HostCall, HostCallItem, HostFunction, decode_items

MAX_UNPAID_CALLS = 10_000
"""Host calls of one run that cost nothing: `budget()` and whole failures are records that have to be kept, and what is
refused had to be read, like an answer that is asked for again and no longer in memory."""


def _nothing() -> None:
    """A cell that cannot diverge."""


class HostCallRefused(RlmServiceError):
    """No cell is open for this call, or the run is over."""

    code = "host_call_refused"
    fault = Fault.POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCell:
    """The cell that may make host calls now.

    A re-run needs an id of its own on the wire, where an id never runs twice; its records stay under the id that the
    cell had first.
    """

    wire_id: str
    cell_id: CellId
    is_rerun: bool = False
    on_divergence: Callable[[], None] = _nothing
    """Called when a re-run asks for something that it had not asked for before."""


class MakesHostCalls(Protocol):
    """Makes a call for the first time. `sub_calls.SubCalls`, `children.Children` and `budget.BudgetReport`."""

    def remember(self, call: CallFinished) -> None:
        """Take a finished call into account, which may be an item of a batch that was cut short."""
        ...

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        """Fill in one item per prompt. Whatever waits before it begins something does so within `beginning`.

        Raises:
            BadRequest: the arguments are not of the function's shape; nothing was done.
        """
        ...


class HostCalls:
    """The host calls of one run while it is driven. It owns the records; the journal keeps them.

    Calls are made in the driver's task group, not in the request that asked for them: a sandbox that loses its
    connection does not cancel what is paid for, and the end of the run ends them all.
    """

    def __init__(
        self,
        makers: dict[HostFunction, MakesHostCalls],
        *,
        record: Callable[[Event], Awaitable[Place | None]],
        now: Callable[[], float],
        recall: Callable[[], AsyncIterator[tuple[Place, Event]]],
        look_up: Callable[[Place], Awaitable[Event]],
        tasks: anyio.abc.TaskGroup,
        kept_chars: int | None = KEPT_CHARS,
        most_unpaid: int = MAX_UNPAID_CALLS,
    ) -> None:
        """`record` tells where the journal has the event; None where nothing keeps it. `recall` goes through all events
        that may answer, `look_up` reads one and raises `NotFound` where it is gone. After `most_unpaid` calls that came
        to nothing no more are answered."""
        self._most_unpaid = most_unpaid
        self._makers = makers
        self._record = record
        self._recall = recall
        self._look_up = look_up
        self._now = now
        self._tasks = tasks
        self._answers = Answers(kept_chars)
        """Of the open cell; for a re-run, of all cells."""
        self._one_recall = anyio.Lock()
        """The journal is gone through once, and what is large is read from it one after the other."""
        self.one_look_up = anyio.Lock()
        """Held by the gateway until it has sent an answer for which `must_look_up`: each is a copy of its own."""
        self._has_recalled = False
        self._under_way: dict[HostCallKey, UnderWay] = {}
        self.are_cancelled = False
        """Set when the run is being stopped; the cell that runs then is told to stop too."""
        self._unpaid = 0
        self._open_cell: OpenCell | None = None
        self.inbound_bytes = 0
        """Of requests that the gateway is reading or answering; it keeps their sum within bounds."""
        self.one_large_body = anyio.Lock()
        """Of this run, one is decoded after the other."""
        self.has_diverged = False
        """Set by a re-run cell that asked for something it had not asked for before."""

    def __repr__(self) -> str:
        return f"<HostCalls open={self._open_cell} under_way={len(self._under_way)} recorded={len(self._answers)}>"

    @property
    def is_busy(self) -> bool:
        """Whether a call is in flight: until it is answered, its cell may be waiting for it."""
        return bool(self._under_way)

    async def remember(self, event: Event, place: Place) -> None:
        """Take a journalled fact into the records, if it is one that answers host calls."""
        if isinstance(event, HostCallAnswered):
            self._answers.keep(event.key, await _items_of(event), place)
        elif isinstance(event, CallFinished):
            for maker in dict.fromkeys(self._makers.values()):
                maker.remember(event)

    def open(self, cell: OpenCell) -> None:
        """From now on this cell may make calls. What earlier cells were answered is let go."""
        self._open_cell = cell
        if not cell.is_rerun:
            self._answers.keep_only(cell.cell_id)
            self._has_recalled = False

    def close_cell(self) -> None:
        """From now on no cell may make calls."""
        self._open_cell = None

    def begin_no_more(self) -> None:
        """A cell has ended, and its journal says so: nothing more is begun for the calls that it left under way.

        Only then: a cell whose end nobody knows of is run again by whoever takes the run over, and must not find an
        answer that was cut short.
        """
        for under_way in self._under_way.values():
            under_way.beginning.cancel()

    def cancel(self) -> None:
        """Cancel every call in flight; each settles what it has spent. Later calls fail as cancelled."""
        self.are_cancelled = True
        for under_way in self._under_way.values():
            under_way.scope.cancel()

    def check_paying(self) -> None:
        """Raise `HostCallRefused` where too many calls came to nothing. A re-run is answered from its records."""
        is_rerun = self._open_cell is not None and self._open_cell.is_rerun
        if self._unpaid >= self._most_unpaid and not is_rerun:
            raise HostCallRefused(f"this run has made {self._most_unpaid} host calls that came to nothing: no more")

    def count_unpaid(self) -> None:
        """A call was refused as it stands, or asks once more for what has to be read again: it cost nothing but our
        time."""
        self._unpaid += 1

    def must_look_up(self, call: HostCall) -> bool:
        """Whether its answer is in the journal alone, or may be: before a re-run has recalled what there is, nobody
        knows."""
        cell = self._open_cell
        if cell is None:
            return False
        is_unknown = cell.is_rerun and not self._has_recalled
        return is_unknown or self._answers.place_of(_key_of(cell, call)) is not None

    async def answer(self, call: HostCall) -> list[HostCallItem]:
        """The items' results, in order. An item that fails never fails the others.

        Raises:
            HostCallRefused: no cell is open, or not the one that asks, or the run is over.
            BadRequest: the arguments are not of the function's shape.
        """
        cell = self._open_cell
        if cell is None or call.wire_cell_id != cell.wire_id:
            raise HostCallRefused("host calls are only possible while their own cell is running")
        key = _key_of(cell, call)
        if cell.is_rerun and not self._has_recalled:
            await self._recall_all()
        if (kept := self._answers.get(key)) is not None:
            return kept
        if (place := self._answers.place_of(key)) is not None:
            if not cell.is_rerun:
                self.check_paying()
                self.count_unpaid()
            return await self._looked_up(key, place)
        if cell.is_rerun:
            self.has_diverged = True
            cell.on_divergence()
            return [HostCallItem(diverged=True, message="the cell did not make this call when it first ran")]
        if self.are_cancelled:
            return [NOT_STARTED]
        self.check_paying()
        under_way = self._under_way.get(key)
        if under_way is None:
            under_way = self._under_way[key] = UnderWay(key)
            self._tasks.start_soon(self._make, call, under_way)
        await under_way.done.wait()
        if under_way.refusal is not None:
            raise under_way.refusal
        if under_way.answer is None:
            raise HostCallRefused("the run is over")
        return under_way.answer

    async def _recall_all(self) -> None:
        async with self._one_recall:
            if not self._has_recalled:
                async for place, event in self._recall():
                    await self.remember(event, place)
                self._has_recalled = True

    async def _looked_up(self, key: HostCallKey, place: Place) -> list[HostCallItem]:
        """An answer that is in the journal alone. Raises `HostCallRefused` where the journal has lost it."""
        async with self._one_recall:
            try:
                event = await self._look_up(place)
            except NotFound:
                event = None
            if not isinstance(event, HostCallAnswered) or event.key != key:
                raise HostCallRefused("the record of this host call is no longer there")
            return await _items_of(event)

    async def wait_until_idle(self) -> None:
        """Until no call is in flight: all are answered and settled."""
        while self._under_way:
            await next(iter(self._under_way.values())).done.wait()

    async def _make(self, call: HostCall, under_way: UnderWay) -> None:
        try:
            with under_way.scope:
                try:
                    await self._makers[call.function].make(call, under_way)
                except RlmServiceError as exc:
                    if exc.fault is Fault.PLATFORM:
                        raise
                    under_way.refusal = exc
                    self.count_unpaid()
                    return
            if not under_way.is_recorded:
                answered = under_way.answered(self._now())
                self._unpaid += call.function == "budget" or len(answered.failures) == answered.items
                under_way.place = await self._record(answered)
            under_way.answer = under_way.items or [NOT_STARTED]
            self._answers.keep(under_way.key, under_way.answer, under_way.place)
        finally:
            del self._under_way[under_way.key]
            under_way.done.set()


def _key_of(cell: OpenCell, call: HostCall) -> HostCallKey:
    return HostCallKey(
        cell_id=cell.cell_id, function=call.function, arguments_sha256=call.arguments_sha256, ordinal=call.ordinal
    )


async def _items_of(event: HostCallAnswered) -> list[HostCallItem]:
    """Large ones are decoded in a thread."""
    if len(event.answer_json) <= LARGE_CHARS:
        return decode_items(event.answer_json)
    return await anyio.to_thread.run_sync(decode_items, event.answer_json)
