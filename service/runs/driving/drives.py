"""Drives: puts together everything that one run needs on this replica, and drives it; child runs likewise."""

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

import anyio
import anyio.abc

from service.errors import sole_failure
from service.ids import CellId, RunId, SessionId, new_id
from service.journal.values import Recorded
from service.ledger.values import NOTHING, Unit
from service.loop.events import (
    CellFinished,
    ChildRunFinished,
    Event,
    NamespaceRebuilt,
    RunSubmitted,
    SandboxAcquired,
)
from service.loop.values import ChildShown, ContextBinding, HostCallKey, StopReason
from service.money import NanoUSD
from service.runs.calls.metered_call import HOLD_MARGIN_S
from service.runs.calls.purse import Purse
from service.runs.driving.driver import PreparedSession, RunDriver, wrap_up_charge, wrap_up_hold
from service.runs.driving.last_word import say_last_word
from service.runs.driving.lost_direct import end_lost_direct
from service.runs.driving.recorder import Recorder
from service.runs.driving.seats import Levels, Seat, Seats
from service.runs.host_calls.budget import BudgetReport
from service.runs.host_calls.children import MAX_CHILD_ANSWER_BYTES, ChildAnswer, Children, ChildRequest
from service.runs.host_calls.host_calls import HostCalls
from service.runs.host_calls.sub_calls import SubCalls
from service.runs.rooms import RunsRooms
from service.runs.sessions.bindings import Wanted
from service.runs.sessions.open_session import OpenSession
from service.runs.standing import Standing
from service.runs.submission.first_event import (
    SUB_OUTPUT_TOKENS,
    Family,
    check_affordable,
    check_request,
    output_tokens,
)
from service.runs.submitting import keep_session, submitted_event
from service.runs.values import RunRequest, RunView
from service.runs.views import view_of
from service.store.errors import StoreFailed


class Drives:
    """Drives runs to their end. Whoever calls it owns the task and what becomes of a failure."""

    def __init__(self, rooms: RunsRooms, seats: Seats) -> None:
        self._rooms = rooms
        self._seats = seats

    async def drive_root(self, run_id: RunId) -> None:
        """Take the run over from wherever its journal stands, and drive it until it has finished.

        Raises:
            StaleEpoch: another replica has taken it over meanwhile.
            StoreFailed: the run could not go on.
        """
        epoch = await self._rooms.journal.take_over(run_id)
        recorded = await self._rooms.events_of(run_id)
        submitted = recorded[0].event
        assert isinstance(submitted, RunSubmitted)
        if submitted.is_direct:
            await end_lost_direct(self._rooms, run_id, epoch, recorded)
            return
        purse = Purse(submitted, self._rooms.ledger)
        standing = await self._standing(submitted, (run_id,), purse, epoch)
        try:
            await self._reserve_wrap_up(standing)
            await self._drive(standing, recorded, self._seats.seat_for(submitted))
        finally:
            await self._release_wrap_up(standing)

    async def _drive(self, standing: Standing, recorded: list[Recorded], seat: Seat) -> None:
        recorder = Recorder(self._rooms.journal, standing.run_id, standing.epoch, recorded)
        # The seat is left after every task of the run has ended: none of them outlives its sandbox.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(seat.leave)
            async with anyio.create_task_group() as tasks:
                host_calls = self._host_calls(standing, recorder, seat, tasks)
                for entry in recorded:
                    host_calls.remember(entry.event)

                current_grant = stack.enter_context(ExitStack())

                def new_grant() -> str:
                    """One at a time: what a lost sandbox held is worth nothing."""
                    current_grant.close()
                    granted = self._rooms.grants.granted(host_calls, expires_at=standing.submitted.deadline_at)
                    return current_grant.enter_context(granted)

                async def open_session(session: OpenSession) -> None:
                    wanted, finished = _wanted(standing.submitted), _finished_cells(recorded)
                    rebuilt = await session.prepare(standing.run_id, wanted, finished, new_grant, host_calls)
                    sandbox = session.opened
                    await recorder.record(
                        SandboxAcquired(
                            at=self._rooms.now(),
                            sandbox_id=sandbox.sandbox_id,
                            generation=sandbox.generation or 0,
                            isolation=f"{sandbox.isolation.provider}/{sandbox.isolation.level}",
                        )
                    )
                    if rebuilt is not None:
                        told = NamespaceRebuilt(at=self._rooms.now(), cells=rebuilt.cells, missing=rebuilt.missing)
                        await recorder.record(told)

                prepared = PreparedSession(seat.take, open_session)
                tasks.start_soon(prepared.prepare)
                driver = RunDriver(
                    standing, recorder, prepared, host_calls, rooms=self._rooms, tasks=tasks, rebuild_grant=new_grant
                )
                await driver.drive()
                tasks.cancel_scope.cancel()

    def _host_calls(
        self,
        standing: Standing,
        recorder: Recorder,
        seat: Seat,
        tasks: anyio.abc.TaskGroup,
    ) -> HostCalls:
        rooms = self._rooms
        sub_calls = SubCalls(
            standing,
            max_output_tokens=output_tokens(
                standing.sub_route, standing.purse.limits.cost, default=SUB_OUTPUT_TOKENS, share=20
            ),
            metered=rooms.metered,
            append=recorder.record,
        )

        async def run_child(key: HostCallKey, request: ChildRequest) -> ChildAnswer:
            assert seat.levels is not None, "code runs only in a run that is seated"
            return await self._run_child(standing, seat.levels, recorder, key, request)

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
            recall=lambda: self._session_events(standing.submitted),
            tasks=tasks,
        )

    async def _session_events(self, submitted: RunSubmitted) -> list[Event]:
        """The events of all runs of the session so far: their host calls answer a rebuild."""
        records = await self._rooms.session.cell_log.read(submitted.session_id)
        runs = dict.fromkeys(record.run_id for record in records if record.run_id is not None)
        return [entry.event for run_id in runs for entry in await self._rooms.events_of(run_id)]

    async def _run_child(
        self, parent: Standing, levels: Levels, recorder: Recorder, key: HostCallKey, request: ChildRequest
    ) -> ChildAnswer:
        # The slot comes first: a child that waits for one has no run, no session and no context yet.
        async with levels.slot(parent.submitted.depth + 1):
            submitted = await self._submit_child(parent, request)
            try:
                epoch = await self._rooms.journal.take_over(submitted.run_id)
                recorded = await self._rooms.events_of(submitted.run_id)
                standing = await self._standing(submitted, (submitted.run_id, *parent.lineage), parent.purse, epoch)
                await self._drive(standing, recorded, self._seats.child_seat(submitted, levels))
            except BaseException as exc:
                # Whatever ends the child ends it in its own journal too, and its parent learns what it has spent.
                with anyio.CancelScope(shield=True):
                    await say_last_word(self._rooms, submitted.run_id, sole_failure(exc))
                    await self._tell_parent(recorder, key, submitted.run_id)
                raise
        return await self._child_answer(await self._tell_parent(recorder, key, submitted.run_id))

    async def _tell_parent(self, recorder: Recorder, key: HostCallKey, child_id: RunId) -> RunView:
        with anyio.CancelScope(shield=True):
            events = await self._rooms.events_of(child_id)
            view = view_of(child_id, events)
            if view.stop_reason is not None:
                child = ChildShown(
                    run_id=child_id,
                    stop_reason=view.stop_reason,
                    spent=view.spent,
                    tokens=view.input_tokens + view.output_tokens,
                    output_tokens=view.output_tokens,
                    sub_calls=view.sub_calls,
                )
                await recorder.record(ChildRunFinished(at=self._rooms.now(), key=key, child=child))
        return view

    async def _child_answer(self, view: RunView) -> ChildAnswer:
        assert view.stop_reason is not None, "a child that was driven to its end has finished"
        if view.answer is None:
            return ChildAnswer(
                stop_reason=view.stop_reason,
                text=None,
                message=f"the child run ended without an answer ({view.stop_reason})",
            )
        if view.answer.size_bytes > MAX_CHILD_ANSWER_BYTES:
            return ChildAnswer(
                stop_reason=StopReason.ANSWER_TOO_LARGE,
                text=None,
                message=f"the child's answer is larger than {MAX_CHILD_ANSWER_BYTES} bytes",
            )
        payload = await self._rooms.blobs.read(view.answer, limit_bytes=MAX_CHILD_ANSWER_BYTES)
        return ChildAnswer(stop_reason=view.stop_reason, text=payload.decode("utf-8", "replace"), message="")

    async def _submit_child(self, parent: Standing, request: ChildRequest) -> RunSubmitted:
        if isinstance(request.context, str):
            context = await self._rooms.contexts.put_text(
                "context", _once(request.context.encode("utf-8", "backslashreplace")), is_listed=False
            )
        else:
            context = await self._rooms.contexts.put_json(
                "context", _once(json.dumps(request.context).encode()), is_listed=False
            )
        given = parent.submitted
        child_request = RunRequest(
            question=request.question,
            contexts=(ContextBinding(context_id=context.context_id),),
            root_model=request.root_model,
            sub_model=given.sub_model,
            limits=given.limits,
            tools=given.tools,
            prompt_pack=given.prompt.pack.partition("@")[0],
            key_id=given.key_id,
        )
        check_request(child_request)
        family = Family(parent_run_id=given.run_id, depth=given.depth + 1, deadline_at=given.deadline_at)
        submitted = await submitted_event(
            self._rooms, child_request, SessionId(new_id("ses")), run_id=RunId(new_id("run")), family=family
        )
        await self._check_affordable(submitted, parent)
        await keep_session(self._rooms, submitted.session_id)
        await self._rooms.journal.open_run(submitted)
        return submitted

    async def _check_affordable(self, submitted: RunSubmitted, parent: Standing) -> None:
        """Refuse a child whose first call what is left of the shared budget cannot cover, whatever is given back."""
        balances = await self._rooms.ledger.balances([parent.purse.own_account], tuple(Unit))
        left = {
            balance.unit: None
            if balance.limit is None
            else max(0, balance.limit - balance.spent - parent.purse.standing.of(balance.unit))
            for balance in balances
        }
        cost, tokens = left[Unit.NANO_USD], left[Unit.TOKENS]
        limits = replace(submitted.limits, cost=None if cost is None else NanoUSD(cost), tokens=tokens)
        check_affordable(
            replace(submitted, limits=limits, wrap_up=None), await self._rooms.route_to(submitted.root_model)
        )

    async def _standing(
        self, submitted: RunSubmitted, lineage: tuple[RunId, ...], purse: Purse, epoch: int
    ) -> Standing:
        return Standing(
            submitted=submitted,
            lineage=lineage,
            purse=purse,
            root_route=await self._rooms.route_to(submitted.root_model),
            sub_route=await self._rooms.route_to(submitted.sub_model),
            epoch=epoch,
        )

    async def _reserve_wrap_up(self, standing: Standing) -> None:
        """Set the wrap-up call's money aside, so that even a run that spends everything can say what it has."""
        if standing.submitted.wrap_up is None:
            return
        hold = wrap_up_hold(standing)
        with anyio.CancelScope(shield=True):
            reserved = await self._rooms.ledger.reserve(
                [wrap_up_charge(standing, at=self._rooms.now())],
                standing.purse.accounts(standing.lineage),
                expires_at=standing.submitted.deadline_at + HOLD_MARGIN_S,
            )
            if reserved.refusal is None:
                standing.purse.standing = hold.amount

    async def _release_wrap_up(self, standing: Standing) -> None:
        """Give back what the run did not live to use, however it ended."""
        if standing.purse.standing is not NOTHING:
            with contextlib.suppress(StoreFailed):
                await self._rooms.metered.release([wrap_up_hold(standing)], standing.purse)
                standing.purse.standing = NOTHING


def _finished_cells(recorded: list[Recorded]) -> frozenset[CellId]:
    return frozenset(entry.event.result.cell_id for entry in recorded if isinstance(entry.event, CellFinished))


def _wanted(submitted: RunSubmitted) -> Wanted:
    return Wanted(
        contexts=submitted.bindings,
        tools=submitted.tools,
        is_child=submitted.depth > 0,
        begins_run=submitted.code is None,
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
