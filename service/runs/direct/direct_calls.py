"""The use case: reserve, open the run, call, and write down call, settlement and end of the run in one flush."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace

import anyio

from service.errors import BadRequest, RlmServiceError
from service.ids import RunId, SessionId, new_id
from service.journal.redis_journal import Journal
from service.journal.values import RunIdTaken
from service.loop.events import CallFinished, RunFinished, RunSubmitted
from service.loop.values import AnswerSource, CallOutcome, Limits, Message, Purpose, RenderedPrompt, StopReason, Usage
from service.models.catalog import Route
from service.money import NanoUSD
from service.runs.calls.counting import count_input_tokens
from service.runs.calls.errors import budget_error
from service.runs.calls.purse import Purse
from service.runs.calls.values import Hold, MeteredCall, Refused, TextListener
from service.runs.direct.values import LONGEST_S, MAX_MESSAGES, DirectAnswer, DirectCallFailed, DirectRequest
from service.runs.rooms import RunsRooms
from service.runs.submission.schemas import (
    CheckedSchema,
    ReplyBreaksSchema,
    check_schema_aside,
    parse_checked,
    unfenced,
)
from service.store.errors import StoreFailed
from service.store.riders import Rider

QUESTION_CHARS = 200
"""Of the last message, for the list of runs: the messages themselves are not kept."""
CLEAN_UP_S = 10.0

_REPAIR = "This cannot be used: {problem}. Reply again, with nothing but JSON that satisfies the schema."
_PROMPT = RenderedPrompt(system="", pack="direct@1", sha256=hashlib.sha256(b"").hexdigest())
_STOPS = {
    CallOutcome.BUDGET: StopReason.BUDGET,
    CallOutcome.TOKEN_LIMIT: StopReason.TOKEN_LIMIT,
    CallOutcome.TIMED_OUT: StopReason.DEADLINE,
    CallOutcome.CANCELLED: StopReason.CANCELLED,
    CallOutcome.SUSPENDED: StopReason.SUSPENDED,
}


class DirectCalls:
    """Makes the direct calls of one tenant."""

    def __init__(self, rooms: RunsRooms) -> None:
        self._journal = rooms.journal
        self._ledger = rooms.ledger
        self._metered = rooms.metered
        self._calls = rooms.dispatch.calls
        self._route_to = rooms.route_to
        self._leases = rooms.leases
        self._now = rooms.now

    async def complete(
        self,
        request: DirectRequest,
        listener: TextListener | None = None,
        run_id: RunId | None = None,
        *,
        on_open: Callable[[], None] = lambda: None,
    ) -> DirectAnswer:
        """Make the call. Cancelled, it is charged for what the provider may bill, and its run ends as cancelled.

        Args:
            request: what to ask, and whose money pays.
            listener: is told the reply as it comes. What it was told is not taken back: the call is not tried again. A
                reply that is to satisfy a schema is told when it is known to.
            run_id: the id that its run shall have; None makes one.
            on_open: called once the run is there: what fails from then on is told in its journal too.

        Raises:
            BadRequest, UnknownModel, UnpricedModel, MissingApiKey: what the request asks for cannot be.
            BudgetExceeded, BudgetInFlight: the money is not there; there is no run, and nothing was asked.
            RateLimited, ConcurrencyLimited, TenantSuspended: the same for a limit of the tenant or its keys.
            DirectCallFailed: the model gave no answer.
            RunIdTaken: there is a run of this id already.
            StoreFailed: no journal or ledger, so no call.
        """
        _check(request)
        schema = None if request.schema is None else await check_schema_aside(request.schema)
        route = await self._route_to(request.model)
        submitted = _submitted(request, route, run_id or RunId(new_id("run")), self._now())
        purse = Purse(submitted, self._ledger)
        call = await _call(request, submitted, route, listener if schema is None else None)
        hold = await self._reserved(call, purse)
        try:
            leases = self._leases
            epoch = await self._journal.open_run(submitted, keeper=leases.replica, for_s=leases.for_s)
        except RunIdTaken:
            # A reservation is found again by its id: this one belongs to the call of the run that is there; and what
            # was let in here does, too, if that one is made here.
            if not leases.are_kept(submitted.run_id):
                await self._calls.leave_to_others(hold.call_id)
            raise
        except BaseException:
            await self._metered.release([hold], purse)
            await self._lift_limits(purse)
            raise
        purse.fence = self._journal.fence(submitted.run_id, epoch)
        on_open()
        run = _DirectRun(self._journal, submitted.run_id, epoch, self._now, ends_with_reply=schema is None)
        # Who has lost the run is refused at its next write; until then there is nothing to stop.
        with leases.kept(self._journal, submitted.run_id, epoch, _nothing):
            try:
                reply = _answered(await self._metered.call(call, purse, run.append, hold=hold), call)
                usage = reply.usage
                if schema is not None:
                    mended = await self._mended(reply, schema, call, purse, run)
                    usage, reply = usage if mended is reply else _sum(usage, mended.usage), mended
                    run.is_answered = True
            finally:
                with anyio.move_on_after(CLEAN_UP_S, shield=True):
                    await run.end()
        text = reply.text if schema is None else unfenced(reply.text)
        if listener is not None:
            listener.tell_rest(text)
        return DirectAnswer(
            run_id=submitted.run_id,
            model=reply.model,
            text=text,
            finish_reason=reply.finish_reason,
            usage=usage,
            spent=run.spent,
        )

    async def _reserved(self, call: MeteredCall, purse: Purse) -> Hold:
        """What the call may cost at most, within the limit of its own. Raises as `complete` does for the money."""
        try:
            await purse.set_limits()
            hold = await self._metered.reserve(call, purse)
            if isinstance(hold, Refused):
                raise _refusal(call, hold)
        except BaseException:
            await self._lift_limits(purse)
            raise
        return hold

    async def _lift_limits(self, purse: Purse) -> None:
        """There is no run, so there is nothing to limit: many refusals must not leave as many keys. Shielded."""
        with anyio.move_on_after(CLEAN_UP_S, shield=True), contextlib.suppress(StoreFailed):
            if not await self._journal.exists(purse.root_run_id):  # else it is limited by another try
                await purse.lift_limits()

    async def _mended(
        self, reply: CallFinished, schema: CheckedSchema, call: MeteredCall, purse: Purse, run: "_DirectRun"
    ) -> CallFinished:
        """The reply, if it satisfies the schema; else the one that mends it."""
        try:
            await parse_checked(reply.text, schema)
        except ReplyBreaksSchema as broken:
            again = replace(
                call,
                stem=f"{call.lineage[0]}/repair",
                messages=(
                    *call.messages,
                    Message(role="assistant", content=reply.text),
                    Message(role="user", content=_REPAIR.format(problem=broken)),
                ),
            )
            mended = _answered(await self._metered.call(again, purse, run.append), again)
            try:
                await parse_checked(mended.text, schema)
            except ReplyBreaksSchema as still:
                raise _failed(
                    call.lineage[0], CallOutcome.INVALID_REPLY, f"it does not satisfy the JSON schema: {still}"
                ) from still
            return mended
        return reply


def _nothing() -> None:
    """Nobody has to be told."""


class _DirectRun:
    """The journal of one direct call, from its opening on."""

    def __init__(
        self, journal: Journal, run_id: RunId, epoch: int, now: Callable[[], float], *, ends_with_reply: bool
    ) -> None:
        """`ends_with_reply`: the first good reply is the answer; else `is_answered` is set by whoever looks at it."""
        self._journal = journal
        self._ends_with_reply = ends_with_reply
        self._run_id = run_id
        self._epoch = epoch
        self._now = now
        self._last = CallOutcome.CANCELLED
        self._is_over = False
        self._is_in_doubt = False
        """Whether a call was made that may not stand in the journal."""
        self.is_answered = False
        self.spent = NanoUSD(0)

    async def append(self, finished: CallFinished, rider: Rider) -> None:
        """Journal an attempt. A good one ends the run: both events travel together."""
        self.spent = NanoUSD(self.spent + finished.cost)
        self._last = finished.outcome
        is_last = finished.outcome is CallOutcome.OK and self._ends_with_reply
        try:
            if is_last:
                ended = self._ended(is_answered=True)
                await self._journal.append(self._run_id, self._epoch, ended, rider, ahead=(finished,))
            else:
                await self._journal.append(self._run_id, self._epoch, finished, rider)
        except StoreFailed:
            self._is_in_doubt = True
            raise
        self.is_answered = self._is_over = is_last

    async def end(self) -> None:
        """End the run, if its call has not. One whose journal may lack a call is left to whoever takes it over."""
        if not self._is_over and not self._is_in_doubt:
            await self._journal.append(self._run_id, self._epoch, self._ended(is_answered=self.is_answered))
            self._is_over = True

    def _ended(self, *, is_answered: bool) -> RunFinished:
        return RunFinished(
            at=self._now(),
            stop_reason=StopReason.ANSWERED if is_answered else _STOPS.get(self._last, StopReason.MODEL_FAILED),
            answer_source=AnswerSource.SUBMITTED if is_answered else AnswerSource.PARTIAL,
            answer=None,
            spent=self.spent,
        )


def _check(request: DirectRequest) -> None:
    if not 0 < len(request.messages) <= MAX_MESSAGES:
        raise BadRequest(f"a completion needs 1 to {MAX_MESSAGES} messages, found {len(request.messages)}")
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise BadRequest("a reply needs at least one token")
    if not 0 < request.deadline_s <= LONGEST_S:
        raise BadRequest(f"a completion may take up to {LONGEST_S:.0f} s")


def _submitted(request: DirectRequest, route: Route, run_id: RunId, at: float) -> RunSubmitted:
    return RunSubmitted(
        at=at,
        run_id=run_id,
        session_id=SessionId(new_id("ses")),
        parent_run_id=None,
        depth=0,
        question=request.messages[-1].content[:QUESTION_CHARS],
        contexts=(),
        root_model=route.name,
        sub_model=route.name,
        root_window_tokens=route.card.window_tokens,
        root_max_output_tokens=_output_tokens(request, route),
        limits=Limits(turns=1, depth=0, cost=request.cost_limit, wall_s=request.deadline_s),
        prompt=_PROMPT,
        wrap_up=None,
        deadline_at=at + request.deadline_s,
        key_id=request.key_id,
        answer_schema=request.schema,
        profile=request.profile,
        key_ancestors=request.key_ancestors,
        is_direct=True,
    )


async def _call(
    request: DirectRequest, submitted: RunSubmitted, route: Route, listener: TextListener | None
) -> MeteredCall:
    return MeteredCall(
        stem=f"{submitted.run_id}/direct",
        purpose=Purpose.DIRECT,
        route=route,
        messages=request.messages,
        input_tokens=await count_input_tokens(request.messages, request.schema),
        max_output_tokens=submitted.root_max_output_tokens,
        deadline_at=submitted.deadline_at,
        lineage=(submitted.run_id,),
        schema=request.schema,
        listener=listener,
    )


def _output_tokens(request: DirectRequest, route: Route) -> int:
    most = route.card.max_output_tokens
    return most if request.max_output_tokens is None else min(most, request.max_output_tokens)


def _refusal(call: MeteredCall, refused: Refused) -> RlmServiceError:
    if refused.refusal is not None:
        return budget_error(refused.refusal)
    return refused.error or _failed(call.lineage[0], refused.outcome, refused.message)


def _answered(result: CallFinished | Refused, call: MeteredCall) -> CallFinished:
    """Raises `DirectCallFailed`."""
    if isinstance(result, Refused):
        raise _failed(call.lineage[0], result.outcome, result.message)
    if result.outcome is not CallOutcome.OK:
        raise _failed(call.lineage[0], result.outcome, result.text)
    return result


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        cache_write_tokens=one.cache_write_tokens + other.cache_write_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )


def _failed(run_id: RunId, outcome: CallOutcome, message: str) -> DirectCallFailed:
    return DirectCallFailed(f"the model gave no answer: {message}", data={"run_id": run_id, "outcome": outcome.value})
