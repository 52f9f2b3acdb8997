"""The driver: performs a run's commands one at a time and journals what happened before acting on it.

It decides nothing that the loop could decide. A cancel request or a deadline is an event like any other; when the loop
then wants the outstanding command interrupted, the driver cancels the root's call, or interrupts the cell and, if that
does not help, kills its sandbox.
"""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_never

import anyio
import anyio.abc

from service.errors import BadRequest
from service.journal.values import RunAlreadyFinished
from service.ledger.values import NOTHING
from service.loop.commands import (
    AskRoot,
    BindHistory,
    Command,
    Finish,
    ReadVariable,
    RebuildNamespace,
    RunCell,
)
from service.loop.events import (
    CancelRequested,
    CellFinished,
    DeadlineNeared,
    DeadlinePassed,
    Event,
    NamespaceRebuilt,
    RootUnavailable,
    RunFinished,
    SandboxLost,
)
from service.loop.machine import decide
from service.loop.values import CallOutcome, CellResult, CellStatus, Purpose, Raised
from service.money import NanoUSD
from service.runs.calls.charges import bound_of
from service.runs.calls.counting import count_input_tokens
from service.runs.calls.purse import run_account
from service.runs.calls.values import Hold, MeteredCall, Refused
from service.runs.driving.interruption import STOPPED, Interruption, Stopped
from service.runs.driving.prepared_session import NO_SANDBOX, PreparedSession, rebuilt_event
from service.runs.driving.reads_values import ReadsValues, answer_form
from service.runs.driving.recorder import Recorder
from service.runs.driving.undone import killed, not_done
from service.runs.driving.wrap_up import wrap_up_hold
from service.runs.holdings.holdings import count_answer
from service.runs.host_calls.host_calls import HostCalls
from service.runs.rooms import RunsRooms
from service.runs.sessions.open_session import CellLimits, OpenSession
from service.runs.standing import Standing
from service.sandboxes.port import SandboxGone
from service.sandboxes.values import BindRefused, SandboxBusy

WRAP_UP_S = 30.0
WRAP_UP_SHARE_OF_TIME = 0.2
"""Before the deadline, this much time (the smaller of the two) is kept for the wrap-up call."""
INTERRUPT_GRACE_S = 5.0
"""How long a cell may go on after it was interrupted before its sandbox is killed."""
CLEAN_UP_S = 20.0


class RunDriver:
    """Drives one run on this replica, from wherever its journal stands to `RunFinished`."""

    def __init__(
        self,
        standing: Standing,
        recorder: Recorder,
        prepared: PreparedSession,
        host_calls: HostCalls,
        *,
        rooms: RunsRooms,
        tasks: anyio.abc.TaskGroup,
        rebuild_grant: Callable[[], str],
        ends_when_cancelled: Callable[[], bool],
        end_forsaken: Callable[[], Awaitable[None]],
    ) -> None:
        """`end_forsaken` ends what an earlier driver began for this run and nobody asked for again."""
        self._standing = standing
        self._recorder = recorder
        self._prepared = prepared
        self._host_calls = host_calls
        self._rooms = rooms
        self._tasks = tasks
        self._rebuild_grant = rebuild_grant
        self._ends_when_cancelled = ends_when_cancelled
        self._end_forsaken = end_forsaken
        self._interruption = Interruption(recorder)
        self._values = ReadsValues(standing, rooms, self._interruption)
        self._asked = 0

    def __repr__(self) -> str:
        return f"<RunDriver {self._recorder!r} {self._host_calls!r}>"

    async def drive(self) -> None:
        """Perform commands until the run has finished.

        Cancelling it from outside finishes the run as cancelled, within `CLEAN_UP_S`, where a run ends with the task
        that drives it. Otherwise, and when a task of the run's own has failed, it leaves at once: what becomes of the
        run is for whoever catches the failure or the cancellation to say.
        """
        try:
            async with anyio.create_task_group() as watchers:
                watchers.start_soon(self._watch_clock)
                watchers.start_soon(self._watch_cancel)
                while (command := decide(self._recorder.state)) is not None:
                    await self._perform(command)
                watchers.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            if self._tasks.cancel_scope.cancel_called or not self._ends_when_cancelled():
                raise
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLEAN_UP_S):
                await self._finish_as_cancelled()
            raise

    # -- the commands ----------------------------------------------------------------------------------------------

    async def _perform(self, command: Command) -> None:
        if not isinstance(command, Finish | ReadVariable) and not await self._may_begin():
            await self._recorder.record(not_done(command, self._now()))
            return
        match command:
            case AskRoot():
                await self._ask_root(command)
            case RunCell():
                await self._in_session(command, lambda session: self._run_cell(session, command))
                self._host_calls.begin_no_more()
            case BindHistory():
                await self._in_session(command, lambda session: self._bind_history(session, command))
            case ReadVariable():
                await self._in_session(command, lambda session: self._values.read(session, command))
            case RebuildNamespace():
                await self._in_session(command, self._rebuild)
            case Finish():
                await self._finish(command)
            case _:
                assert_never(command)

    async def _may_begin(self) -> bool:
        """Wait until the run is seated; False when it is to stop before (or has been told to already)."""
        return await self._interruption.unless_stopped(self._prepared.seated) is not STOPPED

    async def _in_session(self, command: Command, act: Callable[[OpenSession], Awaitable[Event]]) -> None:
        """Record what acting in the session comes to; without a sandbox the run cannot go on."""
        try:
            session = await self._interruption.unless_stopped(self._prepared.ready)
        except NO_SANDBOX as exc:
            await self._recorder.record(SandboxLost(at=self._now(), message=str(exc)))
            return
        if isinstance(session, OpenSession):
            await self._recorder.record(await act(session))
        else:
            await self._recorder.record(not_done(command, self._now()))

    async def _ask_root(self, command: AskRoot) -> None:
        standing = self._standing
        submitted = standing.submitted
        call = MeteredCall(
            stem=self._new_stem(command),
            purpose=command.purpose,
            route=standing.root_route,
            messages=command.messages,
            input_tokens=await count_input_tokens(command.messages),
            max_output_tokens=command.max_output_tokens,
            deadline_at=submitted.deadline_at,
            lineage=standing.lineage,
            cache_key=standing.run_id,
        )
        hold = await self._take_wrap_up_hold(call) if command.purpose is Purpose.WRAP_UP else None
        result = await self._interruption.unless_stopped(
            lambda: self._rooms.metered.call(call, standing.purse, self._recorder.record, hold=hold)
        )
        if isinstance(result, Stopped):
            outcome, message = CallOutcome.CANCELLED, "the run is being stopped"
        elif isinstance(result, Refused):
            outcome, message = result.outcome, result.message
        elif result.outcome is CallOutcome.OK:
            return
        else:
            outcome, message = result.outcome, result.text
        await self._recorder.record(
            RootUnavailable(at=self._now(), purpose=command.purpose, outcome=outcome, message=message)
        )

    def _new_stem(self, command: AskRoot) -> str:
        """Never the same twice: a reservation resolves once, also when a turn is asked again after a compaction."""
        self._asked += 1
        standing = self._standing
        return f"{standing.run_id}/e{standing.epoch}/{command.purpose.value}{command.turn}.{self._asked}"

    @property
    def _has_wrap_up_hold(self) -> bool:
        return self._standing.purse.standing is not NOTHING and self._standing.run_id == self._standing.lineage[-1]

    async def _take_wrap_up_hold(self, call: MeteredCall) -> Hold | None:
        """The hold made at submit, if there is one and it covers the call; else the call reserves like any other."""
        if not self._has_wrap_up_hold:
            return None
        hold = wrap_up_hold(self._standing)
        needed = bound_of(call, hold.max_output_tokens)
        if needed.nano_usd <= hold.amount.nano_usd and needed.tokens <= hold.amount.tokens:
            self._standing.purse.standing = NOTHING
            return hold
        await self._give_back(hold)
        return None

    async def _give_back(self, hold: Hold) -> None:
        await self._rooms.metered.release([hold], self._standing.purse)
        self._standing.purse.standing = NOTHING

    async def _run_cell(self, session: OpenSession, command: RunCell) -> CellFinished:
        limits = self._standing.submitted.limits
        remaining_s = max(1.0, self._standing.submitted.deadline_at - self._now())
        async with anyio.create_task_group() as stopping:

            def interrupt() -> None:
                stopping.start_soon(self._stop_cell, session, command)

            try:
                with self._interruption.by(interrupt):
                    result = await session.run_cell(
                        self._standing.run_id,
                        (command.cell_id, command.code),
                        CellLimits(active_s=limits.cell_active_s, wall_s=remaining_s),
                        answer_form(self._standing),
                        self._host_calls,
                    )
            except (SandboxGone, SandboxBusy) as exc:
                result = killed(command, str(exc))
            except BadRequest as exc:
                raised = Raised(type_name="ValueError", message=str(exc), traceback="")
                result = CellResult(cell_id=command.cell_id, status=CellStatus.RAISED, raised=raised)
            finally:
                stopping.cancel_scope.cancel()
        outer_left = await self._standing.purse.outer_left()
        return CellFinished(at=self._now(), result=result, outer_left=outer_left)

    async def _stop_cell(self, session: OpenSession, command: RunCell) -> None:
        """Calls in flight first, so that code waiting for them is released; then the code; then the sandbox."""
        self._host_calls.cancel()
        sandbox = session.sandbox
        if sandbox is None:
            return
        try:
            await sandbox.interrupt(command.cell_id)
            await anyio.sleep(INTERRUPT_GRACE_S)
        except SandboxGone:
            return
        await sandbox.kill()

    async def _bind_history(self, session: OpenSession, command: BindHistory) -> CellFinished:
        try:
            await session.bind_history(self._standing.run_id, command.cell_id, command.messages)
            result = CellResult(cell_id=command.cell_id, status=CellStatus.OK)
        except BindRefused as exc:
            raised = Raised(type_name="MemoryError", message=str(exc), traceback="")
            result = CellResult(cell_id=command.cell_id, status=CellStatus.RAISED, raised=raised)
        except (SandboxGone, SandboxBusy) as exc:
            result = killed(command, str(exc))
        return CellFinished(at=self._now(), result=result)

    async def _rebuild(self, session: OpenSession) -> Event:
        try:
            rebuilt = await self._interruption.unless_stopped(
                partial(session.rebuild, self._rebuild_grant, self._host_calls)
            )
        except NO_SANDBOX as exc:
            return SandboxLost(at=self._now(), message=str(exc))
        if isinstance(rebuilt, Stopped):
            return NamespaceRebuilt(at=self._now(), cells=0)
        return rebuilt_event(rebuilt, at=self._now())

    async def _finish(self, command: Finish) -> None:
        self._host_calls.cancel()
        await self._host_calls.wait_until_idle()
        await self._end_forsaken()
        standing = self._standing
        answer = command.answer
        if command.answer_text is not None:
            answer = await self._rooms.blobs.put(command.answer_text.encode("utf-8", "backslashreplace"))
        if answer is not None:
            await count_answer(self._rooms, standing.submitted, answer)
        if self._has_wrap_up_hold:
            await self._give_back(wrap_up_hold(standing))
        (balance,) = await self._rooms.ledger.balances([run_account(standing.run_id)])
        await self._recorder.record(
            RunFinished(
                at=self._now(),
                stop_reason=command.stop_reason,
                answer_source=command.answer_source,
                answer=answer,
                spent=NanoUSD(balance.spent),
                message=command.message,
                sandboxes=await self._prepared.used(),
            )
        )

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _watch_clock(self) -> None:
        submitted = self._standing.submitted
        kept_s = min(WRAP_UP_S, (submitted.deadline_at - submitted.at) * WRAP_UP_SHARE_OF_TIME)
        if submitted.code is not None:
            kept_s = 0.0  # there is nobody to wrap up
        await anyio.sleep(max(0.0, submitted.deadline_at - kept_s - self._now()))
        await self._tell(DeadlineNeared(at=self._now()))
        await anyio.sleep(max(0.0, submitted.deadline_at - self._now()))
        await self._tell(DeadlinePassed(at=self._now()))

    async def _watch_cancel(self) -> None:
        await self._rooms.journal.wait_for_cancel(self._standing.run_id)
        await self._tell(CancelRequested(at=self._now()))

    async def _tell(self, event: Event) -> None:
        """Record a reason to stop; one that comes after the end is no reason any more."""
        with contextlib.suppress(RunAlreadyFinished):
            await self._recorder.record(event)

    async def _finish_as_cancelled(self) -> None:
        """The task is being cancelled: nothing more is performed, each due command is answered as not done."""
        await self._recorder.record(CancelRequested(at=self._now()))
        while (command := decide(self._recorder.state)) is not None:
            if isinstance(command, Finish):
                await self._finish(command)
            else:
                await self._recorder.record(not_done(command, self._now()))

    def _now(self) -> float:
        return self._rooms.now()
