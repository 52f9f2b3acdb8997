"""Drives: puts together everything that one run needs on this replica, and drives it; child runs likewise."""

import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack

import anyio
import anyio.abc

from service.ids import CallId, CellId, RunId
from service.journal.values import Place, Recorded, RunAlreadyFinished
from service.ledger.errors import ReservationConflict
from service.loop.commands import RebuildNamespace
from service.loop.events import (
    CellFinished,
    RunSubmitted,
    RunTakenOver,
    SandboxAcquired,
)
from service.loop.machine import decide
from service.loop.values import HostCallKey
from service.runs.calls.metered_call import HOLD_MARGIN_S
from service.runs.calls.purse import Purse
from service.runs.driving.child_runs import Begun, ChildRuns, Parent
from service.runs.driving.driver import RunDriver
from service.runs.driving.folding import folded
from service.runs.driving.lost_direct import end_lost_direct
from service.runs.driving.prepared_session import PreparedSession, rebuilt_event
from service.runs.driving.recorder import Recorder
from service.runs.driving.seats import Seat, Seats
from service.runs.driving.tenure import Tenure
from service.runs.driving.wrap_up import is_wrap_up, wrap_up_charge, wrap_up_hold, wrap_up_hold_id
from service.runs.host_calls.budget import BudgetReport
from service.runs.host_calls.children import ChildAnswer, Children, ChildRequest
from service.runs.host_calls.host_calls import HostCalls
from service.runs.host_calls.sub_calls import SubCalls
from service.runs.recovery.families import KnownChildren, known_children
from service.runs.recovery.progress import check_progress
from service.runs.recovery.settling import Settles
from service.runs.rooms import RunsRooms
from service.runs.sessions.bindings import wanted_of
from service.runs.sessions.conversations import session_events
from service.runs.sessions.open_session import OpenSession
from service.runs.standing import Standing
from service.runs.submission.first_event import (
    SUB_OUTPUT_TOKENS,
    output_tokens,
)


class Drives:
    """Drives runs to their end. Whoever calls it owns the task and what becomes of a failure."""

    def __init__(self, rooms: RunsRooms, seats: Seats) -> None:
        self._rooms = rooms
        self._seats = seats
        self._child_runs = ChildRuns(rooms, self._drive_child)

    async def claim_root(self, run_id: RunId) -> Tenure:
        """Claim the run, to drive it.

        Raises:
            RunKept, RunAlreadyFinished, NotFound: it is not to be driven here.
        """
        journal, leases = self._rooms.journal, self._rooms.leases
        claimed = await journal.claim(run_id, leases.replica, for_s=leases.for_s)
        return Tenure(run_id, claimed, journal.fence(run_id, claimed.epoch), hands_over=leases.hands_over)

    async def drive_root(self, tenure: Tenure) -> None:
        """Drive the run from wherever its journal stands until it has finished, or the tenure is over.

        Raises:
            StaleEpoch: another replica has taken it over meanwhile.
            StoreFailed: the run could not go on.
        """
        journal, run_id = self._rooms.journal, tenure.run_id
        with self._rooms.leases.kept(journal, run_id, tenure.epoch, tenure.end), tenure.scope:
            recorded = await self._rooms.events_of(run_id)
            submitted = recorded[0].event
            assert isinstance(submitted, RunSubmitted)
            if tenure.was_driven or submitted.is_direct:
                recorded = await self._recover(tenure, recorded)
            if submitted.is_direct:
                await end_lost_direct(self._rooms, run_id, tenure.epoch, recorded)
                return
            standing = Standing(
                submitted=submitted,
                lineage=(run_id,),
                purse=Purse(submitted, self._rooms.ledger, fence=tenure.fence, gate=tenure.gate),
                root_route=await self._rooms.route_to(submitted.root_model),
                sub_route=await self._rooms.route_to(submitted.sub_model),
                epoch=tenure.epoch,
                fence=tenure.fence,
            )
            await self._reserve_wrap_up(standing)
            await self._drive(
                standing,
                recorded,
                self._seats.seat_for(submitted, tenure.fence),
                tenure,
                lambda: tenure.ends_when_cancelled,
            )

    async def _recover(self, tenure: Tenure, recorded: list[Recorded]) -> list[Recorded]:
        """Settle what the last driver had in flight, and journal that the run goes on; its events from then on.

        Raises:
            RunStalled: it was taken over often enough without coming any further.
        """
        rooms, run_id = self._rooms, tenure.run_id
        check_progress([entry.event for entry in recorded])
        settles = Settles(rooms.journal, rooms.ledger, rooms.metered)
        # A run that cannot be folded is ended for that by its driver, behind this: each take-over has to count.
        state = folded(run_id, recorded)
        may_be_made = state is not None and is_wrap_up(decide(state))
        unused = frozenset[CallId]() if may_be_made else frozenset({wrap_up_hold_id(run_id)})
        lost = await settles.left_open(run_id, unused=unused, at=rooms.now())
        uncertain = sum(not call.is_journalled for call in lost)
        await rooms.journal.append(
            run_id, tenure.epoch, RunTakenOver(at=rooms.now(), epoch=tenure.epoch, uncertain_calls=uncertain)
        )
        await settles.settle(lost, run_id, tenure.epoch, tenure.fence)
        return await rooms.events_of(run_id)

    async def _drive_child(self, begun: Begun) -> None:
        standing, parent = begun.standing, begun.parent
        seat = self._seats.child_seat(standing.submitted, standing.fence, begun.levels)
        await self._drive(standing, begun.recorded, seat, parent.tenure, parent.ends_child_when_cancelled)

    async def _drive(
        self,
        standing: Standing,
        recorded: list[Recorded],
        seat: Seat,
        tenure: Tenure,
        ends_when_cancelled: Callable[[], bool],
    ) -> None:
        recorder = Recorder(self._rooms.journal, standing.run_id, standing.epoch, recorded, within=standing.fence)
        parent = Parent(
            standing=standing,
            recorder=recorder,
            tenure=tenure,
            children=await self._known_children(standing, recorded, tenure),
            # A child ends with the host call that asked for it, when that was told to stop.
            ends_child_when_cancelled=lambda: (
                not tenure.is_over and (host_calls.are_cancelled or ends_when_cancelled())
            ),
        )
        # The seat is left after every task of the run has ended: none of them outlives its sandbox.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(seat.leave)
            async with anyio.create_task_group() as tasks:
                host_calls = self._host_calls(parent, seat, tasks)
                for entry in recorded:
                    await host_calls.remember(entry.event, Place(run_id=standing.run_id, seq=entry.seq))

                current_grant = stack.enter_context(ExitStack())

                def new_grant() -> str:
                    """One at a time: what a lost sandbox held is worth nothing."""
                    current_grant.close()
                    granted = self._rooms.grants.granted(host_calls, expires_at=standing.submitted.deadline_at)
                    return current_grant.enter_context(granted)

                async def open_session(session: OpenSession) -> None:
                    wanted, finished = wanted_of(standing.submitted), _finished_cells(recorded)
                    rebuilt = await session.prepare(
                        standing.run_id, wanted, finished, new_grant, host_calls, fence=seat.fence
                    )
                    sandbox = session.opened
                    acquired = SandboxAcquired(
                        at=self._rooms.now(),
                        sandbox_id=sandbox.sandbox_id,
                        generation=sandbox.generation or 0,
                        isolation=f"{sandbox.isolation.provider}/{sandbox.isolation.level}",
                    )
                    # A run that needed no sandbox has ended, perhaps, while it came up: the seat gives it back.
                    with contextlib.suppress(RunAlreadyFinished):
                        await recorder.record(acquired)
                        if rebuilt is not None and not isinstance(decide(recorder.state), RebuildNamespace):
                            await recorder.record(rebuilt_event(rebuilt, at=self._rooms.now()))

                prepared = PreparedSession(seat.take, open_session)
                tasks.start_soon(prepared.prepare)
                driver = RunDriver(
                    standing,
                    recorder,
                    prepared,
                    host_calls,
                    rooms=self._rooms,
                    tasks=tasks,
                    rebuild_grant=new_grant,
                    ends_when_cancelled=ends_when_cancelled,
                    end_forsaken=lambda: self._child_runs.end_forsaken(parent),
                )
                await driver.drive()
                tasks.cancel_scope.cancel()

    async def _known_children(self, standing: Standing, recorded: list[Recorded], tenure: Tenure) -> KnownChildren:
        """The children that earlier drivers of the run have begun."""
        if not tenure.was_driven:
            return KnownChildren()
        journal = self._rooms.journal
        journals = {child: await journal.read_all(child) for child in await journal.children_of(standing.run_id)}
        return known_children([entry.event for entry in recorded], journals)

    def _host_calls(self, parent: Parent, seat: Seat, tasks: anyio.abc.TaskGroup) -> HostCalls:
        rooms, standing, recorder = self._rooms, parent.standing, parent.recorder
        sub_calls = SubCalls(
            standing,
            max_output_tokens=output_tokens(
                standing.sub_route, standing.purse.limits.cost, default=SUB_OUTPUT_TOKENS, share=20
            ),
            metered=rooms.metered,
            record=recorder.record,
        )

        async def run_child(key: HostCallKey, request: ChildRequest) -> ChildAnswer:
            assert seat.levels is not None, "code runs only in a run that is seated"
            return await self._child_runs.run(parent, seat.levels, key, request)

        children = Children(standing, sub_calls=sub_calls, run_child=run_child)
        budget = BudgetReport(standing, turns_taken=lambda: recorder.state.turn.number, now=rooms.now)
        return HostCalls(
            {
                "llm_query": sub_calls,
                "llm_query_batched": sub_calls,
                "rlm_query": children,
                "rlm_query_batched": children,
                "budget": budget,
            },
            record=recorder.record,
            now=rooms.now,
            recall=lambda: session_events(
                rooms.session.cell_log, rooms.journal, standing.submitted.session_id, standing.run_id
            ),
            look_up=rooms.journal.event_at,
            tasks=tasks,
        )

    async def _reserve_wrap_up(self, standing: Standing) -> None:
        """Set the wrap-up call's money aside, so that even a run that spends everything can say what it has."""
        if standing.submitted.wrap_up is None:
            return
        with anyio.CancelScope(shield=True), contextlib.suppress(ReservationConflict):
            # In conflict: an earlier driver has used it or given it back, so the wrap-up reserves like any other call.
            reserved = await self._rooms.ledger.reserve(
                [wrap_up_charge(standing, at=self._rooms.now())],
                standing.purse.accounts(standing.lineage),
                expires_at=standing.submitted.deadline_at + HOLD_MARGIN_S,
                within=standing.fence,
            )
            if reserved.refusal is None:
                standing.purse.standing = wrap_up_hold(standing).amount


def _finished_cells(recorded: list[Recorded]) -> frozenset[CellId]:
    return frozenset(entry.event.result.cell_id for entry in recorded if isinstance(entry.event, CellFinished))
