"""The metered call: the only way from this service to a language model.

    be admitted → reserve → call → append `CallFinished` → settle

Who waits to be admitted (`dispatch.call_admission`) holds no money.

Each attempt is a reservation of its own, under an id derived from where the call stands in its run, so every step is
idempotent: a crash after the append settles from the journal, a crash before it leaves a hold that expires into a
charge. An amount is held before anything is sent, and it bounds what the provider can bill; hence `spent + held` never
passes a limit, whatever runs in parallel. The settlement rides behind the append, in one round trip and disk flush.

A provider that keeps failing is shut off by its breaker, before any money is held, and a call goes on to the fallbacks
of its model, each attempt at its own model's price and recorded under it.

When the money does not fit: while other calls of the same account are in flight, wait for them (they hold more than
they will use) in the purse's line, for as long as the account is the run's own, else for `OTHERS_PATIENCE_S`; then
shrink the output limit down to a floor; then refuse.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import anyio.lowlevel

from service.ids import CallId
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Level, Refusal
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose
from service.runs.calls.attempts import Course, after_attempt, after_refusal, pause_after
from service.runs.calls.charges import (
    bound_of,
    fitting_output_tokens,
    held_charge,
    on_route,
    refused_by,
)
from service.runs.calls.health import ProviderHealth
from service.runs.calls.paid_attempts import CLEAN_UP_S, Append, PaidAttempts
from service.runs.calls.purse import Purse
from service.runs.calls.values import Hold, MeteredCall, Refused
from service.runs.dispatch.call_admission import CallAsked
from service.runs.dispatch.dispatch import Dispatch
from service.store.disk_room import DiskRoom
from service.tenants.errors import ConcurrencyLimited, RateLimited, TenantSuspended

HOLD_MARGIN_S = 120.0
"""A hold outlives its call's deadline by this much before it counts as lost."""
OTHERS_PATIENCE_S = 10.0
"""How long a call waits for money that other runs of its session, key or tenant hold: some of it until they end."""


class MeteredCalls:
    """Makes metered calls for all runs of one tenant on this replica."""

    def __init__(
        self,
        ledger: Ledger,
        now: Callable[[], float],
        health: ProviderHealth,
        dispatch: Dispatch,
        disk: DiskRoom,
    ) -> None:
        self._disk = disk
        self._ledger = ledger
        self._dispatch = dispatch
        self._now = now
        self._health = health
        self._attempts = PaidAttempts(ledger, now, health, dispatch)
        self.settle = self._attempts.settle

    async def call(
        self, call: MeteredCall, purse: Purse, append: Append, *, hold: Hold | None = None
    ) -> CallFinished | Refused:
        """Make the call, with its retries and on its fallbacks (`attempts` says what follows what).

        Args:
            call: what to ask.
            purse: whose money.
            append: journals a `CallFinished`.
            hold: the first attempt's reservation, when the caller made it already (`reserve`).

        Returns:
            The last attempt (whose outcome may be a failure), or the refusal that prevented any.
        """
        last: CallFinished | None = None
        course = _course_of(call, route=0 if hold is None else hold.route)
        while True:
            here = on_route(call, course.route)
            wait_s = self._health.shut_s(here.route.provider, self._now())
            if wait_s is None and hold is None:
                held = await self._reserve_on(here, purse, course)
                if isinstance(held, Refused):
                    return last or held
                hold = held
            if hold is not None:
                await self._give_back_if_cancelled(hold, purse)
                if (refused := await self._give_back_if_not_admitted(here, hold, purse)) is not None:
                    return last or refused
                if purse.gate.is_shut:  # held before it was: nothing may be begun with it any more
                    await self.release([hold], purse)
                    await purse.gate.wait_until_open()
                # Asked again, because reserving takes its time; and only who is about to call may be a shut provider's
                # probe. Between this and the attempt nothing is awaited.
                wait_s = self._health.admit(here.route.provider, self._now())
            if wait_s is None:
                assert hold is not None, "no provider is asked without a reservation"
                attempt, hold = hold, None
                with purse.gate.passed():
                    last, retry_after_s = await self._attempts.make(here, attempt, purse, append)
                if last.outcome is CallOutcome.OK:
                    return last
                course = replace(course, tries=course.tries + 1, attempts=course.attempts + 1)
                pause_s = pause_after(course, retry_after_s)
                onward = after_attempt(course, last.outcome, pause_s, call.deadline_at - self._now())
            else:
                if hold is not None:
                    await self.release([hold], purse)
                    hold, course = None, replace(course, attempts=course.attempts + 1)
                onward = after_refusal(course, wait_s, call.deadline_at - self._now())
            if onward is None or (last is not None and call.listener is not None and call.listener.was_told):
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
            here = on_route(call, course.route)
            wait_s = self._health.shut_s(here.route.provider, self._now())
            if wait_s is None:
                return await self._reserve_on(here, purse, course)
            onward = after_refusal(course, wait_s, call.deadline_at - self._now())
            if onward is None:
                return _refused_by_breaker(here, wait_s)
            course = onward.course
            await anyio.sleep(onward.pause_s)

    async def _reserve_on(self, call: MeteredCall, purse: Purse, course: Course) -> Hold | Refused:
        max_output_tokens = call.max_output_tokens
        others_until = self._now() + OTHERS_PATIENCE_S
        async with AsyncExitStack() as place:
            is_first = False
            while True:
                await purse.gate.wait_until_open()
                if (refused := self._refused_beforehand(call)) is not None:
                    return refused
                asked = replace(call, max_output_tokens=max_output_tokens)
                attempt = _asked(asked, purse, attempt=course.attempts)
                if (refused := await self._admitted(attempt, call)) is not None:
                    return refused
                resolutions = purse.resolutions
                holds, refusal = await self._hold([asked], purse, attempt=course.attempts)
                if refusal is None:
                    return replace(holds[0], route=course.route)
                if self._is_worth_waiting(refusal, purse, others_until):
                    until = call.deadline_at if refusal.account.level is Level.RUN else others_until
                    if not is_first:
                        with anyio.move_on_after(max(0.0, min(until, call.deadline_at) - self._now())):
                            await place.enter_async_context(purse.line)
                            is_first = True
                    if is_first:
                        await purse.wait_for_resolved(since=resolutions)
                    max_output_tokens = call.max_output_tokens
                    continue
                shrunk = fitting_output_tokens(call, max_output_tokens, refusal)
                if shrunk is None:
                    return refused_by(refusal)
                max_output_tokens = shrunk

    async def _admitted(self, asked: CallAsked, call: MeteredCall) -> Refused | None:
        """Wait until the attempt may be made, as far as its tenant's limits go; or why it may not.

        Raises:
            StoreFailed: what comes of it could not be kept.
        """
        await self._disk.require()
        until = call.deadline_at
        if call.purpose is Purpose.DIRECT:  # somebody waits for it, who can come again
            until = min(until, self._now() + OTHERS_PATIENCE_S)
        try:
            await self._dispatch.require_active()
            await self._dispatch.calls.admit(asked, until=until)
        except TenantSuspended as suspended:
            return Refused(outcome=CallOutcome.SUSPENDED, message=str(suspended), error=suspended)
        except (RateLimited, ConcurrencyLimited) as limited:
            return Refused(outcome=CallOutcome.RATE_LIMITED, message=str(limited), error=limited)
        return None

    async def reserve_prefix(self, calls: Sequence[MeteredCall], purse: Purse) -> list[Hold]:
        """The holds of as many calls, from the first on, as fit at once without waiting or shrinking.

        All are of one lineage and deadline, and held by one script: money ends at the tail of a batch, never in its
        middle.
        """
        await purse.gate.wait_until_open()
        shut = (self._health.shut_s(call.route.provider, self._now()) for call in calls)
        if any(self._refused_beforehand(call) for call in calls) or any(wait_s is not None for wait_s in shut):
            return []
        admitted = await self._dispatch.calls.admit_now([_asked(call, purse, attempt=0) for call in calls])
        if not admitted:
            return []
        holds, _ = await self._hold(calls[:admitted], purse, attempt=0)
        return holds

    async def _hold(
        self, calls: Sequence[MeteredCall], purse: Purse, *, attempt: int
    ) -> tuple[list[Hold], Refusal | None]:
        at = self._now()
        charges = [held_charge(call, _call_id(call, attempt), call.max_output_tokens, at=at) for call in calls]
        held = 0
        # Shielded: a hold whose caller was cancelled before learning of it would be charged when it expires.
        with anyio.CancelScope(shield=True):
            try:
                await self._dispatch.set_allowances(purse.key_line)
                reserved = await self._ledger.reserve(
                    charges,
                    purse.accounts(calls[0].lineage),
                    expires_at=calls[0].deadline_at + HOLD_MARGIN_S,
                    within=purse.fence,
                )
                held = reserved.held
            finally:
                await self._dispatch.calls.dismiss_unmade([charge.entry.call_id for charge in charges[held:]])
        holds = [
            Hold(call_id=charge.entry.call_id, amount=charge.amount, max_output_tokens=call.max_output_tokens)
            for call, charge in zip(calls, charges[: reserved.held], strict=False)
        ]
        return holds, reserved.refusal

    async def _give_back_if_not_admitted(self, call: MeteredCall, hold: Hold, purse: Purse) -> Refused | None:
        """A hold that was made early waits for its admission here, and a suspension stops what was admitted, too."""
        asked = CallAsked(
            call_id=hold.call_id, provider=call.route.provider, key_line=purse.key_line, tokens=hold.amount.tokens
        )
        try:
            refused = await self._admitted(asked, call)
        except BaseException:
            await self.release([hold], purse)
            raise
        if refused is not None:
            await self.release([hold], purse)
        return refused

    def _refused_beforehand(self, call: MeteredCall) -> Refused | None:
        if call.route.name in self._health.overbilling:
            return Refused(
                outcome=CallOutcome.REFUSED,
                message=f"{call.route.name} billed more than its price allows; an operator must correct its price",
            )
        if self._now() >= call.deadline_at:
            return Refused(outcome=CallOutcome.TIMED_OUT, message="the run's deadline has passed")
        return None

    async def release(self, holds: Sequence[Hold], purse: Purse) -> None:
        """Give back holds whose calls were never made. Shielded: what nobody resolves is charged when it expires."""
        with anyio.move_on_after(CLEAN_UP_S, shield=True):
            try:
                await self._ledger.release([hold.call_id for hold in holds], within=purse.fence)
            finally:
                await self._dispatch.calls.dismiss_unmade([hold.call_id for hold in holds])
        purse.announce_resolved()

    async def _give_back_if_cancelled(self, hold: Hold, purse: Purse) -> None:
        """Before anything is sent: a call that is cancelled here cost nothing."""
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await self.release([hold], purse)
            raise

    def _is_worth_waiting(self, refusal: Refusal, purse: Purse, others_until: float) -> bool:
        """Whether calls in flight may give back what is missing."""
        if refusal.account.level is not Level.RUN and self._now() >= others_until:
            return False
        return refusal.held > purse.standing.of(refusal.unit)


def _asked(call: MeteredCall, purse: Purse, *, attempt: int) -> CallAsked:
    return CallAsked(
        call_id=_call_id(call, attempt),
        provider=call.route.provider,
        key_line=purse.key_line,
        tokens=bound_of(call, call.max_output_tokens).tokens,
    )


def _call_id(call: MeteredCall, attempt: int) -> CallId:
    return CallId(f"{call.stem}/a{attempt}")


def _course_of(call: MeteredCall, *, route: int = 0) -> Course:
    return Course(routes=1 + len(call.route.fallbacks), route=route)


def _refused_by_breaker(call: MeteredCall, wait_s: float | None) -> Refused:
    again = "" if wait_s is None else f", and it is not asked again for {wait_s:.0f} s"
    return Refused(outcome=CallOutcome.UNAVAILABLE, message=f"the provider of {call.route.name} kept failing{again}")
