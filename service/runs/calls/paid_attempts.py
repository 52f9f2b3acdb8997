"""Single attempts at a call whose money is held: ask the provider, journal how it ended, settle."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import structlog

from service.errors import RlmServiceError
from service.ids import RunId
from service.ledger.redis_ledger import Ledger, Settlement
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose
from service.models.port import ModelCallFailed, ModelRequest
from service.runs.calls.charges import finished_event, settled_charge
from service.runs.calls.health import ProviderHealth
from service.runs.calls.purse import Purse
from service.runs.calls.values import CallFact, Hold, MeteredCall
from service.runs.dispatch.dispatch import Dispatch
from service.store.riders import Rider

CLEAN_UP_S = 10.0

log = structlog.get_logger(__name__)

Append = Callable[[CallFinished, Rider], Awaitable[object]]
"""Journals the event, with the rider behind it; when it returns, the call counts as paid."""


class PaidAttempts:
    """Of all runs of one tenant on this replica."""

    def __init__(self, ledger: Ledger, now: Callable[[], float], health: ProviderHealth, dispatch: Dispatch) -> None:
        self._ledger = ledger
        self._now = now
        self._breakers = health.breakers
        self._overbilling = health.overbilling
        self._dispatch = dispatch

    async def make(
        self, call: MeteredCall, hold: Hold, purse: Purse, append: Append
    ) -> tuple[CallFinished, float | None]:
        """Ask the provider, with the money held and the gate passed; how it ended, and for how long the provider asked
        to be left alone. Cancelled in the middle, it is journalled and booked as uncertain."""
        started = self._now()
        request = ModelRequest(
            model=call.route.upstream_model,
            messages=call.messages,
            max_output_tokens=hold.max_output_tokens,
            schema=call.schema,
            cache_key=call.cache_key,
            is_continued=call.purpose is Purpose.TURN,
            timeout_s=max(1.0, min(600.0, call.deadline_at - started)),
            on_text=None if call.listener is None else call.listener.tell,
        )
        retry_after_s: float | None = None
        cancelled = True
        fact = CallFact(outcome=CallOutcome.CANCELLED, text="cancelled while it ran", reply=None, may_be_billed=True)
        try:
            reply = await call.route.adapter.complete(request)
            cancelled = False
            fact = CallFact(outcome=CallOutcome.OK, text=reply.text, reply=reply, may_be_billed=True)
        except ModelCallFailed as exc:
            cancelled = False
            retry_after_s = exc.retry_after_s
            fact = CallFact(outcome=exc.outcome, text=exc.message, reply=None, may_be_billed=exc.may_be_billed)
        except Exception as exc:
            # How far it came nobody knows, so it may be billed.
            fact = replace(fact, text=f"a defect of the service ended it ({type(exc).__name__})")
            raise
        finally:
            finished = finished_event(call, hold, fact, at=self._now(), started=started)
            self._breakers.record(call.route.provider, fact.outcome, started=started, now=finished.at)
            # What was spent is written down even when this task is being cancelled: the provider has been asked.
            with anyio.move_on_after(CLEAN_UP_S if cancelled else None, shield=True):
                try:
                    await self._write_down(finished, call.lineage[0], append)
                finally:
                    used_tokens = finished.usage.input_tokens + finished.usage.output_tokens
                    await self._dispatch.calls.dismiss(hold.call_id, used_tokens=used_tokens)
                purse.announce_resolved()
        if finished.cost > hold.amount.nano_usd:
            self._overbilling.add(call.route.name)
        return finished, retry_after_s

    async def settle(self, finished: CallFinished, run_id: RunId) -> None:
        """Book a journalled call of the run. Idempotent: also used by whoever takes the run over."""
        if not await self._ledger.settle(settled_charge(finished, run_id)):
            log.info("already_settled", call_id=finished.call_id)

    async def _write_down(self, finished: CallFinished, run_id: RunId, append: Append) -> None:
        """Journal the call and settle it, in this order."""
        settlement = Settlement(settled_charge(finished, run_id))
        await append(finished, self._ledger.riding(settlement))
        match settlement.outcome:
            case None:  # the append did not take it along
                await self.settle(finished, run_id)
            case False:
                # A settled call that is settled again (after a take-over) is fine; a fresh one is a hold that expired.
                log.info("already_settled", call_id=finished.call_id)
            case RlmServiceError() as error:
                raise error
