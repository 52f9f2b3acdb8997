"""The use case: reserve, open the run, call, and write down call, settlement and end of the run in one flush."""

import hashlib
from collections.abc import Callable

import anyio

from service.errors import BadRequest
from service.ids import RunId, SessionId, new_id
from service.journal.redis_journal import Journal
from service.loop.events import CallFinished, RunFinished, RunSubmitted
from service.loop.values import AnswerSource, CallOutcome, Limits, Purpose, RenderedPrompt, StopReason
from service.models.catalog import Route
from service.money import NanoUSD
from service.runs.calls.errors import budget_error
from service.runs.calls.purse import Purse
from service.runs.calls.values import MeteredCall, Refused, TextListener
from service.runs.direct.values import LONGEST_S, MAX_MESSAGES, DirectAnswer, DirectCallFailed, DirectRequest
from service.runs.rooms import RunsRooms
from service.store.riders import Rider

QUESTION_CHARS = 200
"""Of the last message, for the list of runs: the messages themselves are not kept."""
CLEAN_UP_S = 10.0

_PROMPT = RenderedPrompt(system="", pack="direct@1", sha256=hashlib.sha256(b"").hexdigest())
_STOPS = {
    CallOutcome.BUDGET: StopReason.BUDGET,
    CallOutcome.TOKEN_LIMIT: StopReason.TOKEN_LIMIT,
    CallOutcome.TIMED_OUT: StopReason.DEADLINE,
    CallOutcome.CANCELLED: StopReason.CANCELLED,
}


class DirectCalls:
    """Makes the direct calls of one tenant."""

    def __init__(self, rooms: RunsRooms) -> None:
        self._journal = rooms.journal
        self._ledger = rooms.ledger
        self._metered = rooms.metered
        self._catalog = rooms.catalog
        self._leases = rooms.leases
        self._now = rooms.now

    async def complete(
        self, request: DirectRequest, listener: TextListener | None = None, run_id: RunId | None = None
    ) -> DirectAnswer:
        """Make the call. Cancelled, it is charged for what the provider may bill, and its run ends as cancelled.

        Args:
            request: what to ask, and whose money pays.
            listener: is told the reply as it comes. What it was told is not taken back: the call is not tried again.
            run_id: the id that its run shall have; None makes one.

        Raises:
            BadRequest, UnknownModel, UnpricedModel, MissingApiKey: what the request asks for cannot be.
            BudgetExceeded, BudgetInFlight: the money is not there; there is no run, and nothing was asked.
            DirectCallFailed: the model gave no answer.
            RunIdTaken: there is a run of this id already.
            StoreFailed: no journal or ledger, so no call.
        """
        _check(request)
        route = self._catalog.resolve(request.model)
        submitted = _submitted(request, route, run_id or RunId(new_id("run")), self._now())
        purse = Purse(submitted, self._ledger)
        if request.cost_limit is not None:
            await purse.set_limits()
        call = _call(request, submitted, route, listener)
        hold = await self._metered.reserve(call, purse)
        if isinstance(hold, Refused):
            if hold.refusal is not None:
                raise budget_error(hold.refusal)
            raise _failed(submitted.run_id, hold.outcome, hold.message)
        try:
            leases = self._leases
            epoch = await self._journal.open_run(submitted, keeper=leases.replica, for_s=leases.for_s)
        except BaseException:
            await self._metered.release([hold], purse)
            raise
        purse.fence = self._journal.fence(submitted.run_id, epoch)
        run = _DirectRun(self._journal, submitted.run_id, epoch, self._now)
        # Who has lost the run is refused at its next write; until then there is nothing to stop.
        with leases.kept(self._journal, submitted.run_id, epoch, _nothing):
            try:
                result = await self._metered.call(call, purse, run.append, hold=hold)
            finally:
                with anyio.move_on_after(CLEAN_UP_S, shield=True):
                    await run.end()
        if isinstance(result, Refused) or result.outcome is not CallOutcome.OK:
            message = result.message if isinstance(result, Refused) else result.text
            raise _failed(submitted.run_id, result.outcome, message)
        if listener is not None:
            listener.tell_rest(result.text)
        return DirectAnswer(
            run_id=submitted.run_id,
            model=result.model,
            text=result.text,
            finish_reason=result.finish_reason,
            usage=result.usage,
            spent=run.spent,
        )


def _nothing() -> None:
    """Nobody has to be told."""


class _DirectRun:
    """The journal of one direct call, from its opening on."""

    def __init__(self, journal: Journal, run_id: RunId, epoch: int, now: Callable[[], float]) -> None:
        self._journal = journal
        self._run_id = run_id
        self._epoch = epoch
        self._now = now
        self._last = CallOutcome.CANCELLED
        self._is_over = False
        self.spent = NanoUSD(0)

    async def append(self, finished: CallFinished, rider: Rider) -> None:
        """Journal an attempt. A good one ends the run: both events travel together."""
        self.spent = NanoUSD(self.spent + finished.cost)
        self._last = finished.outcome
        if finished.outcome is not CallOutcome.OK:
            await self._journal.append(self._run_id, self._epoch, finished, rider)
            return
        await self._journal.append_last(self._run_id, self._epoch, finished, self._end(), rider)
        self._is_over = True

    async def end(self) -> None:
        """End the run, if its call has not."""
        if not self._is_over:
            await self._journal.append(self._run_id, self._epoch, self._end())
            self._is_over = True

    def _end(self) -> RunFinished:
        is_answered = self._last is CallOutcome.OK
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
        is_direct=True,
    )


def _call(request: DirectRequest, submitted: RunSubmitted, route: Route, listener: TextListener | None) -> MeteredCall:
    return MeteredCall(
        stem=f"{submitted.run_id}/direct",
        purpose=Purpose.DIRECT,
        route=route,
        messages=request.messages,
        max_output_tokens=submitted.root_max_output_tokens,
        deadline_at=submitted.deadline_at,
        lineage=(submitted.run_id,),
        schema=request.schema,
        listener=listener,
    )


def _output_tokens(request: DirectRequest, route: Route) -> int:
    most = route.card.max_output_tokens
    return most if request.max_output_tokens is None else min(most, request.max_output_tokens)


def _failed(run_id: RunId, outcome: CallOutcome, message: str) -> DirectCallFailed:
    return DirectCallFailed(f"the model gave no answer: {message}", data={"run_id": run_id, "outcome": outcome.value})
