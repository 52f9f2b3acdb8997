"""Child runs as their parent's side has them: begun, found again after a take-over, driven, and ended.

A child is known by the host call that asked for it. When a run is taken over and its open cell asks again, a child that
has finished answers from its journal, and one that has not is driven on from where it stands: nothing is asked twice.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import anyio

from service.contexts.values import Context, ContextAbsent
from service.errors import sole_failure
from service.ids import RunId, SessionId, new_id
from service.journal.values import Recorded
from service.ledger.values import Unit
from service.loop.events import ChildRunFinished, RunSubmitted
from service.loop.values import ChildShown, ContextBinding, HostCallKey, StopReason
from service.money import NanoUSD
from service.runs.driving.last_word import say_last_word
from service.runs.driving.levels import Levels
from service.runs.driving.recorder import Recorder
from service.runs.driving.tenure import Tenure
from service.runs.host_calls.children import MAX_CHILD_ANSWER_BYTES, ChildAnswer, ChildRequest
from service.runs.recovery.families import KnownChildren, descendants_of
from service.runs.rooms import RunsRooms
from service.runs.standing import Standing
from service.runs.submission.first_event import Family, check_affordable, check_request, first_call_amount
from service.runs.submitting import keep_session, submitted_event
from service.runs.values import RunRequest, RunView
from service.runs.views import view_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The run that children are asked for by, as it is driven here."""

    standing: Standing
    recorder: Recorder
    tenure: Tenure
    children: KnownChildren
    ends_child_when_cancelled: Callable[[], bool]
    """Whether a child whose task is cancelled has to bring its run to an end first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A child run that is about to be driven."""

    standing: Standing
    recorded: list[Recorded]
    parent: Parent
    levels: Levels


class ChildRuns:
    """Runs the children of this replica's runs. `drive` drives one to its end."""

    def __init__(self, rooms: RunsRooms, drive: Callable[[Begun], Awaitable[None]]) -> None:
        self._rooms = rooms
        self._drive = drive

    async def run(self, parent: Parent, levels: Levels, key: HostCallKey, request: ChildRequest) -> ChildAnswer:
        """The child's answer; it is begun now, unless the same host call began it before.

        Raises:
            BudgetTooSmall: what is left does not cover its first call; there is no child.
        """
        known = parent.children.by_origin.get(key)
        if known is not None and known.is_finished:
            return await self._answer(await self._tell(parent, key, known.run_id))
        # The slot comes first: a child that waits for one has no run, no session and no context yet.
        async with levels.slot(parent.standing.submitted.depth + 1):
            if known is None:
                given = await self._prepared(request)
                child_id = await self._submit(parent.standing, key, request, given)
            else:
                given, child_id = None, known.run_id
            try:
                begun = await self._begun(parent, levels, child_id)
                await self._keep_given(begun.standing.submitted, request, given)
                await self._drive(begun)
            except BaseException as exc:
                is_told_to_end = not isinstance(exc, Exception) and parent.ends_child_when_cancelled()
                if is_told_to_end or not parent.tenure.is_left_after(exc):
                    # Whatever ends the child ends it in its own journal too, and its parent learns what it has spent.
                    with anyio.CancelScope(shield=True):
                        await say_last_word(self._rooms, child_id, sole_failure(exc), parent.standing.fence)
                        await self._tell(parent, key, child_id)
                raise
        return await self._answer(await self._tell(parent, key, child_id))

    async def end_forsaken(self, parent: Parent) -> None:
        """End the children that earlier drivers began and whose answers nobody has asked for again (the run is to stop,
        or its code asked for something else this time); what they have spent is told to their parent.
        """
        for child in parent.children.by_origin.values():
            if child.run_id not in parent.children.told:
                await self._end_family(child.run_id, parent)
                await self._tell(parent, child.origin, child.run_id)

    async def _end_family(self, run_id: RunId, parent: Parent) -> None:
        """End an unfinished run as cancelled, and those below it before."""
        for member in reversed(await descendants_of(self._rooms.journal, (run_id,))):
            if not member.is_finished:
                await say_last_word(self._rooms, member.run_id, None, parent.standing.fence)
        await say_last_word(self._rooms, run_id, None, parent.standing.fence)

    async def _begun(self, parent: Parent, levels: Levels, child_id: RunId) -> Begun:
        rooms, above = self._rooms, parent.standing
        epoch = await rooms.journal.take_over(child_id, within=above.fence)
        recorded = await rooms.events_of(child_id)
        submitted = recorded[0].event
        assert isinstance(submitted, RunSubmitted)
        standing = Standing(
            submitted=submitted,
            lineage=(child_id, *above.lineage),
            purse=above.purse,
            root_route=await rooms.route_to(submitted.root_model),
            sub_route=await rooms.route_to(submitted.sub_model),
            epoch=epoch,
            fence=above.fence,
        )
        return Begun(standing=standing, recorded=recorded, parent=parent, levels=levels)

    async def _tell(self, parent: Parent, key: HostCallKey, child_id: RunId) -> RunView:
        """Let the parent's journal know of the child's end, once."""
        with anyio.CancelScope(shield=True):
            view = view_of(child_id, await self._rooms.events_of(child_id))
            if view.stop_reason is not None and child_id not in parent.children.told:
                parent.children.told.add(child_id)
                child = ChildShown(
                    run_id=child_id,
                    stop_reason=view.stop_reason,
                    spent=view.spent,
                    tokens=view.input_tokens + view.output_tokens,
                    output_tokens=view.output_tokens,
                    sub_calls=view.sub_calls,
                )
                await parent.recorder.record(ChildRunFinished(at=self._rooms.now(), key=key, child=child))
        return view

    async def _answer(self, view: RunView) -> ChildAnswer:
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

    async def _submit(self, parent: Standing, key: HostCallKey, request: ChildRequest, given: Context) -> RunId:
        """Journal the child, before anything that it is given is kept: what a replica leaves that is lost in between is
        named by a journal, found by whoever goes on with the child, and forgotten with it."""
        submitted = await self._asked_for(parent, key, request, given)
        await self._rooms.journal.open_run(submitted, within=parent.fence)
        return submitted.run_id

    async def _keep_given(self, child: RunSubmitted, request: ChildRequest, given: Context | None) -> None:
        """Keep the child's session, and its context: without one that was prepared, what the replica that began the
        child did not come to any more. Idempotent."""
        contexts = self._rooms.contexts
        if given is not None:
            await contexts.keep_prepared(given)
        else:
            for binding in child.bindings:
                try:
                    await contexts.get(binding.context_id)
                except ContextAbsent:
                    again = await self._prepared(request)
                    await contexts.keep_prepared(replace(again, context_id=binding.context_id))
        await keep_session(self._rooms, child.session_id)

    async def _prepared(self, request: ChildRequest) -> Context:
        given = request.context
        if isinstance(given, str):
            payload = given.encode("utf-8", "backslashreplace")
            return await self._rooms.contexts.prepare("context", "text", _once(payload))
        return await self._rooms.contexts.prepare("context", "json", _once(json.dumps(given).encode()))

    async def _asked_for(
        self, parent: Standing, key: HostCallKey, request: ChildRequest, context: Context
    ) -> RunSubmitted:
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
            key_ancestors=given.key_ancestors,
            on_divergence=given.on_divergence,
        )
        check_request(child_request)
        family = Family(parent_run_id=given.run_id, depth=given.depth + 1, deadline_at=given.deadline_at, origin=key)
        submitted = await submitted_event(
            self._rooms,
            child_request,
            SessionId(new_id("ses")),
            run_id=RunId(new_id("run")),
            family=family,
            prepared=(context,),
        )
        await self._check_affordable(submitted, parent)
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
        bounded = replace(submitted, limits=limits, wrap_up=None)
        route = await self._rooms.route_to(submitted.root_model)
        check_affordable(bounded, route, first_call_amount(bounded, route))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
