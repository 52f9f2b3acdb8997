"""The use case: replay a finished run. Nothing of it changes, no model is asked, nothing is paid.

The journal is walked event by event, with the loop's state beside it. Each event must answer the command that is due
then; what a command does in the sandbox is done again, in a session that exists for this alone, and compared.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio
import anyio.abc

from service.errors import BadRequest, sole_failure
from service.ids import CellId, RunId, SessionId, new_id
from service.journal.values import CellRecord, Place, Recorded, RunNotFinished
from service.loop.commands import BindHistory, ReadVariable, RunCell
from service.loop.due import answers
from service.loop.events import (
    CallFinished,
    CellFinished,
    Event,
    HostCallAnswered,
    RunFinished,
    RunSubmitted,
    ValueRead,
)
from service.loop.machine import decide, evolve
from service.loop.state import RunState
from service.loop.values import CallOutcome, CellResult, CellStatus, HostCallKey
from service.runs.copies.cell_logs import copy_session, forget_session, log_until, was_changed_beside
from service.runs.host_calls.host_calls import HostCalls
from service.runs.host_calls.under_way import UnderWay
from service.runs.host_calls.values import HostCall, HostCallItem, HostFunction
from service.runs.replay.comparing import (
    Difference,
    ReplayReport,
    difference,
    difference_of_cells,
    difference_of_ends,
    named,
)
from service.runs.rooms import RunsRooms
from service.runs.runs import Runs
from service.runs.sessions.bindings import wanted_of
from service.runs.sessions.conversations import session_events
from service.runs.sessions.open_session import AnswerForm, CellLimits, OpenSession
from service.runs.sessions.replaying import LEAST_RERUN_S
from service.sandboxes.port import NoSandboxSlot, SandboxGone
from service.sandboxes.values import SandboxBusy, ValueMissing, ValueTooLarge, ValueUnserialisable
from service.store.fences import NO_FENCE

FUNCTIONS: tuple[HostFunction, ...] = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched", "budget")
CUT_SHORT = (CellStatus.TIMED_OUT, CellStatus.KILLED)


async def replay(runs: Runs, run_id: RunId, *, patience_s: float) -> ReplayReport:
    """Do the run again, as far as it comes in this time; for its turn it waits as long at most.

    Raises:
        NotFound: there is no such run, or a context of it is gone.
        RunNotFinished: it is still running.
        BadRequest: it is a direct call, of which there is nothing to do again, or its session was changed beside it.
        NoSandboxSlot, SandboxRefused, SandboxStartFailed, SandboxGone: there is no sandbox for it now.
    """
    rooms = runs.rooms
    recorded = await rooms.events_of(run_id)
    submitted = recorded[0].event
    assert isinstance(submitted, RunSubmitted), "a journal begins with it"
    if not isinstance(recorded[-1].event, RunFinished):
        raise RunNotFinished(f"run {run_id} is still running: replay it when it has ended")
    if submitted.is_direct:
        raise BadRequest("a direct call runs no code, so there is nothing to replay")
    log = await rooms.session.cell_log.read(submitted.session_id)
    if was_changed_beside(log, run_id):
        raise BadRequest(
            f"files or variables of run {run_id}'s session were changed from outside while it was under way: what its "
            "cells met then cannot be repeated"
        )
    # It counts for itself: the run that it repeats, and other replays of it, do not count for it.
    again = replace(submitted, run_id=RunId(new_id("run")), deadline_at=rooms.now() + patience_s)
    sandboxes = rooms.dispatch.sandboxes_of(again)
    try:
        try:
            with anyio.fail_after(patience_s):
                chain = await runs.seats.admit(sandboxes, again, 1)
        except TimeoutError as exc:
            raise NoSandboxSlot(
                f"the replay did not get its turn within {patience_s:g} s: try again when fewer runs wait for sandboxes"
            ) from exc
        try:
            async with chain.take(0):
                return await _in_own_session(rooms, submitted, recorded, log, patience_s)
        except BaseExceptionGroup as group:
            raise sole_failure(group) from group
        finally:
            rooms.slots.give_up(chain)
    finally:
        await sandboxes.give_chain_back()


async def _in_own_session(
    rooms: RunsRooms,
    submitted: RunSubmitted,
    recorded: Sequence[Recorded],
    log: Sequence[CellRecord],
    patience_s: float,
) -> ReplayReport:
    session_id = SessionId(new_id("ses"))
    code = {record.cell_id: record.code for record in log if record.kind == "cell"}
    before = log_until(log, submitted.run_id, ())
    name = f"replay of {submitted.run_id}"
    session = OpenSession(session_id, rooms=rooms.session)
    try:
        await copy_session(rooms.session, submitted.session_id, session_id, before, at=rooms.now(), name=name)
        # Nobody else ever uses it. So if this replica dies, it is forgotten with the sessions that were closed now.
        await rooms.session.records.close(session_id)
        async with anyio.create_task_group() as tasks:
            rehearsal = Rehearsal(rooms, session, submitted, recorded, code, tasks=tasks)
            with anyio.move_on_after(patience_s):
                await rehearsal.perform(expires_at=rooms.now() + patience_s)
            tasks.cancel_scope.cancel()
        return rehearsal.report
    finally:
        with anyio.CancelScope(shield=True):
            await session.close()
            await forget_session(rooms.session, session_id)


class NothingNew:
    """Instead of whoever makes host calls: what was not recorded, the run did not ask for."""

    def __init__(self) -> None:
        self.asked: HostCallKey | None = None
        """The first call without a record."""

    def remember(self, call: CallFinished) -> None:
        """Parts of a call are of no use: the whole was recorded, or its cell was cut short."""

    async def make(self, call: HostCall, under_way: UnderWay) -> None:
        """No model is asked."""
        self.asked = self.asked or under_way.key
        under_way.items.append(HostCallItem(diverged=True, message="the recorded run did not make this call"))


class Rehearsal:
    """One replay on its way; `report` says how far it has come."""

    def __init__(
        self,
        rooms: RunsRooms,
        session: OpenSession,
        submitted: RunSubmitted,
        recorded: Sequence[Recorded],
        code: Mapping[CellId, str],
        *,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        """`code` is what the cells of the run were, by the session's log."""
        self.report = ReplayReport(
            run_id=submitted.run_id, events=0, all_events=len(recorded), cells=0, left_out=(), difference=None
        )
        self._rooms = rooms
        self._session = session
        self._submitted = submitted
        self._recorded = recorded
        self._code = code
        self._nothing_new = NothingNew()
        self._host_calls = HostCalls(
            dict.fromkeys(FUNCTIONS, self._nothing_new),
            record=_forget,
            now=rooms.now,
            recall=lambda: session_events(rooms.session.cell_log, rooms.journal, session.session_id),
            look_up=rooms.journal.event_at,
            tasks=tasks,
            kept_chars=None,  # a replay holds the whole run
        )
        self._answered: dict[CellId, list[tuple[Place, HostCallAnswered]]] = defaultdict(list)
        for entry in recorded:
            if isinstance(entry.event, HostCallAnswered):
                place = Place(run_id=submitted.run_id, seq=entry.seq)
                self._answered[entry.event.key.cell_id].append((place, entry.event))
        self._last_was_left_out = False

    async def perform(self, *, expires_at: float) -> None:
        """Go through the whole run, to its end or to the first difference."""
        run_id = self._submitted.run_id
        with self._rooms.grants.granted(self._host_calls, expires_at=expires_at) as grant:
            wanted = wanted_of(self._submitted)
            await self._session.prepare(run_id, wanted, frozenset(), lambda: grant, self._host_calls, fence=NO_FENCE)
            state: RunState | None = None
            for entry in self._recorded:
                found = None if state is None else await self._compare(state, entry)
                if found is not None:
                    self.report = replace(self.report, difference=found)
                    return
                state = evolve(state, entry.event)
                self.report = replace(self.report, events=self.report.events + 1)

    async def _compare(self, state: RunState, entry: Recorded) -> Difference | None:
        due, event, seq = decide(state), entry.event, entry.seq
        match event:
            case RunFinished():
                return difference_of_ends(seq, due, event, partial=state.partial)
            case CallFinished(outcome=CallOutcome.OK, origin=None) | CellFinished() | ValueRead():
                if not answers(due, event):
                    return difference(seq, "command", _told(event), named(due))
            case _:
                return None
        match due, event:
            case RunCell(), CellFinished():
                return await self._run_again(state, due, seq, event.result)
            case BindHistory(), CellFinished():
                await self._session.bind_history(self._submitted.run_id, due.cell_id, due.messages)
            case ReadVariable(), ValueRead() if not self._last_was_left_out:
                return await self._read_again(due, seq, event)
        return None

    async def _run_again(self, state: RunState, due: RunCell, seq: int, expected: CellResult) -> Difference | None:
        known = self._code.get(due.cell_id, due.code)
        if known != due.code:
            return difference(seq, f"code of cell {due.cell_id}", known, due.code)
        self._last_was_left_out = expected.status in CUT_SHORT or expected.namespace_lost or state.stops.any
        if self._last_was_left_out:
            self.report = replace(self.report, left_out=(*self.report.left_out, due.cell_id))
            return None
        for place, answered in self._answered[due.cell_id]:
            await self._host_calls.remember(answered, place)
        limit_s = max(LEAST_RERUN_S, 2 * expected.active_s)
        try:
            found = await self._session.run_cell(
                self._submitted.run_id,
                (due.cell_id, due.code),
                CellLimits(active_s=limit_s, wall_s=2 * limit_s),
                self._answer_form,
                self._host_calls,
            )
        except (SandboxGone, SandboxBusy, BadRequest) as exc:
            found = CellResult(cell_id=due.cell_id, status=CellStatus.KILLED, detail=str(exc))
            if expected.status is CellStatus.RAISED and isinstance(exc, BadRequest):
                return None  # refused before it ran, as it was then
        self.report = replace(self.report, cells=self.report.cells + 1)
        if (asked := self._nothing_new.asked) is not None:
            call = f"{asked.function} (number {asked.ordinal + 1} with these arguments) in cell {asked.cell_id}"
            return difference(seq, "host calls", "only recorded ones", call)
        return difference_of_cells(seq, expected, found)

    async def _read_again(self, due: ReadVariable, seq: int, event: ValueRead) -> Difference | None:
        if event.outcome == "failed" and event.blob is None:
            return None  # it did not come in time, or could not be written out: nothing to compare with
        expected = event.outcome if event.blob is None else event.blob.sha256
        found = await self._digest_of(due)
        return None if found == expected else difference(seq, f"value of {due.variable}", expected, found)

    async def _digest_of(self, due: ReadVariable) -> str:
        """Of the value, or why there is none in the words of `ValueRead`."""
        sandbox = self._session.opened
        limit_bytes = due.size_limit_bytes
        try:
            async with sandbox.read_value(due.variable, as_=self._answer_form, limit_bytes=limit_bytes) as value:
                async for _ in value.chunks:
                    pass
                return value.sha256
        except ValueMissing:
            return "missing"
        except ValueTooLarge:
            return "too_large"
        except (ValueUnserialisable, SandboxGone, SandboxBusy) as exc:
            return f"failed: {exc}"

    @property
    def _answer_form(self) -> AnswerForm:
        return "text" if self._submitted.answer_schema is None else "json"


async def _forget(event: Event) -> None:
    """A replay keeps no record of its own."""


def _told(event: Event) -> str:
    match event:
        case CallFinished():
            return f"the root LM's reply to {event.purpose}"
        case CellFinished():
            return f"cell {event.result.cell_id}"
        case ValueRead():
            return f"the value of {event.variable}"
        case _:
            return type(event).__name__
