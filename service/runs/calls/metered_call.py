"""The metered call: the only way from this service to a language model.

    reserve → call → append `CallFinished` → settle

Each attempt is a reservation of its own, under an id derived from where the call stands in its run, so every step is
idempotent: a crash after the append settles from the journal, a crash before it leaves a hold that expires into a
charge. An amount is held before anything is sent, and it bounds what the provider can bill; hence `spent + held` never
passes a limit, whatever runs in parallel.

A provider that keeps failing is shut off by its breaker, before any money is held, and a call goes on to the fallbacks
of its model, each attempt at its own model's price and recorded under it.

When the money does not fit: while other calls of the same budget are in flight, wait for them (they hold more than
they will use); otherwise shrink the output limit down to a floor; otherwise refuse.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import anyio
import anyio.lowlevel
import structlog

from service.ids import CallId, RunId
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Entry, Refusal, Unit
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, HostCallKey, Message, Purpose, Usage
from service.models.breaker import Breakers
from service.models.catalog import Route
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.models.prices import bound, cost, input_token_bound
from service.money import NanoUSD
from service.runs.calls.attempts import Course, after_attempt, after_refusal, pause_after
from service.runs.calls.purse import Amount, Purse, rows
from service.store.errors import StoreFailed

OUTPUT_TOKENS_FLOOR = 256
"""A reply of fewer tokens than this is not worth paying its prompt for."""
HOLD_MARGIN_S = 120.0
"""A hold outlives its call's deadline by this much before it counts as lost."""
CLEAN_UP_S = 10.0
SETTLE_EVERY_S = 30.0

_REFUSED_BY = {
    Unit.NANO_USD: (CallOutcome.BUDGET, "what is left of the run's budget does not cover another call"),
    Unit.TOKENS: (CallOutcome.TOKEN_LIMIT, "what is left of the run's token limit does not cover another call"),
    Unit.SUB_CALLS: (CallOutcome.CALL_LIMIT, "the run's limit on sub-calls is reached"),
}

log = structlog.get_logger(__name__)

Append = Callable[[CallFinished], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredCall:
    """One call as the run wants it, before any attempt."""

    stem: str
    """Where it stands in its run; attempt `k` has the id `{stem}/a{k}`."""
    purpose: Purpose
    route: Route
    messages: tuple[Message, ...]
    max_output_tokens: int
    deadline_at: float
    lineage: tuple[RunId, ...]
    schema: dict[str, Any] | None = None
    cache_key: str | None = None
    origin: HostCallKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A reservation that was made: it must be resolved exactly once."""

    call_id: CallId
    amount: Amount
    max_output_tokens: int
    route: int = 0
    """The model that it is for: 0 for the one that was asked for, then the fallbacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No call was or will be made."""

    outcome: CallOutcome
    message: str


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """What the calls of all tenants of this replica have shown of the providers that they share."""

    breakers: Breakers = field(default_factory=Breakers)
    overbilling: set[str] = field(default_factory=set)
    """Models that billed beyond their bound: refused until an operator raises it (a restart re-reads prices)."""


class MeteredCalls:
    """Makes metered calls for all runs of one tenant on this replica."""

    def __init__(self, ledger: Ledger, now: Callable[[], float], health: ProviderHealth) -> None:
        self._ledger = ledger
        self._now = now
        self._breakers = health.breakers
        self._overbilling = health.overbilling

    async def call(
        self, call: MeteredCall, purse: Purse, append: Append, *, hold: Hold | None = None
    ) -> CallFinished | Refused:
        """Make the call, with its retries and on its fallbacks (`attempts` says what follows what).

        Args:
            call: what to ask.
            purse: whose money.
            append: journals a `CallFinished`; after it returns the call counts as paid.
            hold: the first attempt's reservation, when the caller made it already (`reserve`).

        Returns:
            The last attempt (whose outcome may be a failure), or the refusal that prevented any.
        """
        last: CallFinished | None = None
        course = _course_of(call, route=0 if hold is None else hold.route)
        while True:
            here = _on_route(call, course.route)
            wait_s = self._wait_s(self._breakers.admit(here.route.provider, self._now()))
            if wait_s is None:
                held = hold or await self._reserve_on(here, purse, course)
                if isinstance(held, Refused):
                    return last or held
                hold = None
                last, retry_after_s = await self._attempt(here, held, purse, append)
                course = replace(course, tries=course.tries + 1, attempts=course.attempts + 1)
                pause_s = pause_after(course, retry_after_s)
                onward = after_attempt(course, last.outcome, pause_s, call.deadline_at - self._now())
            else:
                if hold is not None:
                    await self.release(hold, purse)
                    hold, course = None, replace(course, attempts=course.attempts + 1)
                onward = after_refusal(course, wait_s, call.deadline_at - self._now())
            if onward is None:
                return last or _refused_by_breaker(here, wait_s)
            course = onward.course
            await anyio.sleep(onward.pause_s)

    async def reserve(self, call: MeteredCall, purse: Purse) -> Hold | Refused:
        """Hold what the first attempt may cost at most, on the first of the call's models whose provider is up.

        Waits for a provider, and for the budget's own calls in flight, if need be.

        Raises:
            StoreFailed: no ledger, so no call.
        """
        course = _course_of(call)
        while True:
            here = _on_route(call, course.route)
            wait_s = self._wait_s(self._breakers.retry_at(here.route.provider, self._now()))
            if wait_s is None:
                return await self._reserve_on(here, purse, course)
            onward = after_refusal(course, wait_s, call.deadline_at - self._now())
            if onward is None:
                return _refused_by_breaker(here, wait_s)
            course = onward.course
            await anyio.sleep(onward.pause_s)

    async def _reserve_on(self, call: MeteredCall, purse: Purse, course: Course) -> Hold | Refused:
        max_output_tokens = call.max_output_tokens
        while True:
            if (refused := self._refused_beforehand(call)) is not None:
                return refused
            held = await self._hold(call, max_output_tokens, attempt=course.attempts)
            if isinstance(held, Hold):
                return replace(held, route=course.route)
            if self._others_are_in_flight(held, purse):
                await purse.wait_for_resolved()
                max_output_tokens = call.max_output_tokens
                continue
            shrunk = _fitting_output_tokens(call, max_output_tokens, held)
            if shrunk is None:
                outcome, message = _REFUSED_BY[held.account.unit]
                return Refused(outcome=outcome, message=message)
            max_output_tokens = shrunk

    async def reserve_prefix(self, calls: Sequence[MeteredCall], purse: Purse) -> list[Hold]:
        """The holds of as many calls, from the first on, as fit at once without waiting or shrinking.

        All are asked for together, which the ledger does in one round trip and in order. What fits behind a call that
        does not is given back: money ends at the tail of a batch, never in its middle.
        """
        found: list[Hold | None] = [None] * len(calls)

        async def hold_one(index: int) -> None:
            held = await self._hold(calls[index], calls[index].max_output_tokens, attempt=0)
            found[index] = held if isinstance(held, Hold) else None

        if any(self._refused_beforehand(call) is not None or self._is_shut(call) for call in calls):
            return []
        # Shielded: a hold whose caller was cancelled before learning of it would be charged when it expires.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for index in range(len(calls)):
                    tasks.start_soon(hold_one, index)
            prefix = [hold for hold in takewhile(lambda hold: hold is not None, found) if hold is not None]
            for hold in found[len(prefix) :]:
                if hold is not None:
                    await self.release(hold, purse)
        return prefix

    async def _hold(self, call: MeteredCall, max_output_tokens: int, *, attempt: int) -> Hold | Refusal:
        call_id = CallId(f"{call.stem}/a{attempt}")
        amount = bound_of(call, max_output_tokens)
        with anyio.CancelScope(shield=True):
            refusal = await self._ledger.reserve(
                call_id,
                rows(call.lineage, amount),
                expires_at=call.deadline_at + HOLD_MARGIN_S,
                if_lost=_lost_entry(call, call_id, amount, self._now()),
            )
        return refusal or Hold(call_id=call_id, amount=amount, max_output_tokens=max_output_tokens)

    def _refused_beforehand(self, call: MeteredCall) -> Refused | None:
        if call.route.name in self._overbilling:
            return Refused(
                outcome=CallOutcome.REFUSED,
                message=f"{call.route.name} billed more than its price allows; an operator must correct its price",
            )
        if self._now() >= call.deadline_at:
            return Refused(outcome=CallOutcome.TIMED_OUT, message="the run's deadline has passed")
        return None

    def _is_shut(self, call: MeteredCall) -> bool:
        return self._breakers.retry_at(call.route.provider, self._now()) is not None

    def _wait_s(self, retry_at: float | None) -> float | None:
        return None if retry_at is None else max(retry_at - self._now(), 0.0)

    async def release(self, hold: Hold, purse: Purse) -> None:
        """Give back a hold whose call was never made. Shielded: what nobody resolves is charged when it expires."""
        with anyio.move_on_after(CLEAN_UP_S, shield=True):
            await self._ledger.release(hold.call_id)
        purse.announce_resolved()

    async def settle(self, finished: CallFinished, lineage: tuple[RunId, ...]) -> None:
        """Book a journalled call. Idempotent: used after each call, and again by whoever takes the run over."""
        used = Amount(
            nano_usd=finished.cost,
            tokens=finished.usage.input_tokens + finished.usage.output_tokens,
            sub_calls=1 if finished.purpose is Purpose.SUB_CALL and finished.outcome is CallOutcome.OK else 0,
        )
        if not await self._ledger.settle(finished.call_id, rows(lineage, used), _entry(finished, lineage[0])):
            # A settled call that is settled again (after a take-over) is fine; a fresh one is a hold that expired.
            log.info("already_settled", call_id=finished.call_id)

    async def _give_back_if_cancelled(self, hold: Hold, purse: Purse) -> None:
        """Before anything is sent: a call that is cancelled here cost nothing."""
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self.release(hold, purse)
            raise

    def _others_are_in_flight(self, refusal: Refusal, purse: Purse) -> bool:
        return refusal.held > purse.standing_in(refusal.account.unit)

    async def _attempt(
        self, call: MeteredCall, hold: Hold, purse: Purse, append: Append
    ) -> tuple[CallFinished, float | None]:
        await self._give_back_if_cancelled(hold, purse)
        started = self._now()
        request = ModelRequest(
            model=call.route.upstream_model,
            messages=call.messages,
            max_output_tokens=hold.max_output_tokens,
            schema=call.schema,
            cache_key=call.cache_key,
            is_continued=call.purpose is Purpose.TURN,
            timeout_s=max(1.0, min(600.0, call.deadline_at - started)),
        )
        retry_after_s: float | None = None
        cancelled = True
        fact = _CallFact(outcome=CallOutcome.CANCELLED, text="cancelled while it ran", reply=None, may_be_billed=True)
        try:
            reply = await call.route.adapter.complete(request)
            cancelled = False
            fact = _CallFact(outcome=CallOutcome.OK, text=reply.text, reply=reply, may_be_billed=True)
        except ModelCallFailed as exc:
            cancelled = False
            retry_after_s = exc.retry_after_s
            fact = _CallFact(outcome=exc.outcome, text=exc.message, reply=None, may_be_billed=exc.may_be_billed)
        finally:
            finished = _finished(call, hold, fact, at=self._now(), started=started)
            self._breakers.record(call.route.provider, fact.outcome, started=started, now=finished.at)
            # What was spent is written down even when this task is being cancelled: the provider has been asked.
            with anyio.move_on_after(CLEAN_UP_S if cancelled else None, shield=True):
                await append(finished)
                await self.settle(finished, call.lineage)
                purse.announce_resolved()
        if finished.cost > hold.amount.nano_usd:
            self._overbilling.add(call.route.name)
        return finished, retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _CallFact:
    outcome: CallOutcome
    text: str
    reply: ModelReply | None
    may_be_billed: bool


def _course_of(call: MeteredCall, *, route: int = 0) -> Course:
    return Course(routes=1 + len(call.route.fallbacks), route=route)


def _on_route(call: MeteredCall, index: int) -> MeteredCall:
    """The call as it is made on one of its routes."""
    if index == 0:
        return call
    route = call.route.fallbacks[index - 1]
    return replace(call, route=route, max_output_tokens=min(call.max_output_tokens, route.card.max_output_tokens))


def _refused_by_breaker(call: MeteredCall, wait_s: float | None) -> Refused:
    again = "" if wait_s is None else f", and it is not asked again for {wait_s:.0f} s"
    return Refused(outcome=CallOutcome.UNAVAILABLE, message=f"{call.route.provider} kept failing{again}")


def bound_of(call: MeteredCall, max_output_tokens: int) -> Amount:
    """The most that one attempt can cost, in every unit."""
    input_tokens = input_token_bound(call.messages, call.schema)
    return Amount(
        nano_usd=bound(call.route.price, input_tokens, max_output_tokens),
        tokens=input_tokens + max_output_tokens,
        sub_calls=1 if call.purpose is Purpose.SUB_CALL else 0,
    )


def _fitting_output_tokens(call: MeteredCall, asked: int, refusal: Refusal) -> int | None:
    """The largest smaller output limit that fits what is left, at least the floor; None if nothing does."""
    if refusal.account.unit is Unit.SUB_CALLS or asked <= OUTPUT_TOKENS_FLOOR:
        return None
    left = refusal.limit - refusal.spent - refusal.held

    def fits(tokens: int) -> bool:
        amount = bound_of(call, tokens)
        return (amount.tokens if refusal.account.unit is Unit.TOKENS else amount.nano_usd) <= left

    if not fits(OUTPUT_TOKENS_FLOOR):
        return None
    low, high = OUTPUT_TOKENS_FLOOR, asked - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _finished(call: MeteredCall, hold: Hold, fact: _CallFact, *, at: float, started: float) -> CallFinished:
    """What the attempt costs: the reported usage, the whole bound if it may be billed unseen, or nothing."""
    finished = CallFinished(
        at=at,
        call_id=hold.call_id,
        purpose=call.purpose,
        model=call.route.name,
        outcome=fact.outcome,
        text=fact.text,
        usage=Usage(),
        cost=NanoUSD(0),
        origin=call.origin,
        duration_s=max(0.0, at - started),
    )
    if fact.reply is not None and fact.reply.usage is not None:
        return replace(finished, usage=fact.reply.usage, cost=cost(call.route.price, fact.reply.usage))
    if not fact.may_be_billed:
        return finished
    unseen = Usage(
        input_tokens=input_token_bound(call.messages, call.schema),
        output_tokens=hold.max_output_tokens,
    )
    return replace(finished, usage=unseen, cost=hold.amount.nano_usd, estimated=True)


def _entry(finished: CallFinished, run_id: RunId) -> Entry:
    flags = []
    if finished.estimated:
        flags.append("uncertain" if finished.outcome is CallOutcome.CANCELLED else "estimated")
    return Entry(
        call_id=finished.call_id,
        run_id=run_id,
        model=finished.model,
        purpose=finished.purpose.value,
        at=finished.at,
        nano_usd=finished.cost,
        input_tokens=finished.usage.input_tokens,
        cached_input_tokens=finished.usage.cached_input_tokens,
        output_tokens=finished.usage.output_tokens,
        flags=tuple(flags),
    )


def _lost_entry(call: MeteredCall, call_id: CallId, amount: Amount, at: float) -> Entry:
    """What is booked when nobody settles: all that the call may have cost."""
    return Entry(
        call_id=call_id,
        run_id=call.lineage[0],
        model=call.route.name,
        purpose=call.purpose.value,
        at=at,
        nano_usd=amount.nano_usd,
        input_tokens=amount.tokens,
        cached_input_tokens=0,
        output_tokens=0,
        flags=("uncertain",),
    )


async def keep_settling(ledgers: Callable[[], Iterable[Ledger]], now: Callable[[], float]) -> None:
    """Settle holds that nobody resolved in time, now and then; every replica does, and it is idempotent."""
    while True:
        for ledger in ledgers():
            try:
                settled = await ledger.settle_expired(now())
            except StoreFailed as exc:
                log.warning("expired_holds_not_settled", error=str(exc))
                break
            if settled:
                log.warning("expired_holds_settled", holds=settled)
        await anyio.sleep(SETTLE_EVERY_S)
