"""Admission of model calls: what a call must have before its money is held.

In this order: a place among the calls that its tenant and keys may have in flight, a turn in the line of all tenants
for its provider, and its tokens from what they may use by the minute. Who waits holds no money; and who waits for
tokens holds none of the others' places meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import structlog

from service.errors import RlmServiceError
from service.ids import CallId, KeyId, TenantId
from service.runs.dispatch.counts import Counts
from service.runs.dispatch.places import FairPlaces
from service.runs.dispatch.tenant_rules import TenantRules
from service.store.errors import StoreFailed
from service.tenants.errors import ConcurrencyLimited, RateLimited
from service.tenants.quotas import Counted

log = structlog.get_logger(__name__)

LONGEST_PAUSE_S = 5.0
"""Somebody else may give tokens back before they would have come by themselves."""


class CallLines:
    """The lines of all tenants of this replica, one for each provider. One that nobody is in is forgotten: there are as
    many providers as names of scripted models that clients think of."""

    def __init__(self, places_each: int) -> None:
        self._places_each = places_each
        self._by_provider: dict[str, FairPlaces] = {}

    def __repr__(self) -> str:
        return f"<CallLines {self._by_provider!r}>"

    @property
    def providers(self) -> frozenset[str]:
        """Those that are being called, or waited for."""
        return frozenset(self._by_provider)

    def free(self, provider: str) -> int:
        """How many turns can be had at once; none while somebody waits."""
        line = self._by_provider.get(provider)
        return self._places_each if line is None else line.free

    async def take(self, provider: str, tenant: TenantId) -> None:
        """Wait for a turn; whoever has it calls `give_back`."""
        line = self._by_provider.setdefault(provider, FairPlaces(self._places_each))
        try:
            await line.take(tenant)
        finally:
            self._forget_if_idle(provider, line)

    def give_back(self, provider: str) -> None:
        """Let the next one have the turn."""
        line = self._by_provider[provider]
        line.give_back()
        self._forget_if_idle(provider, line)

    def _forget_if_idle(self, provider: str, line: FairPlaces) -> None:
        # One that was forgotten may have a successor by now, which others are in.
        if line.is_idle and self._by_provider.get(provider) is line:
            del self._by_provider[provider]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAsked:
    """One attempt at a call, as far as admission goes."""

    call_id: CallId
    provider: str
    key_line: tuple[KeyId, ...]
    tokens: int
    """The most that it can use."""


class CallAdmission:
    """Lets the calls of one tenant in. What it let in is given back by `dismiss` or
    `leave_to_others`, once each."""

    def __init__(self, rules: TenantRules, lines: CallLines, counts: Counts, now: Callable[[], float]) -> None:
        self._rules = rules
        self._lines = lines
        self._counts = counts
        self._now = now
        self._inside: dict[CallId, CallAsked] = {}

    def __repr__(self) -> str:
        return f"<CallAdmission {len(self._inside)} inside>"

    async def admit(self, call: CallAsked, *, until: float) -> None:
        """Wait until the call may be made. Idempotent by its id.

        Raises:
            RateLimited, ConcurrencyLimited: that would not be before `until`.
            TenantSuspended: while it waited for others of its tenant.
            StoreFailed
        """
        if call.call_id in self._inside:
            return
        why: RlmServiceError = ConcurrencyLimited(
            "too many model calls are waiting for their turn: try again in a moment", data={"retry_after_s": 5}
        )
        with anyio.move_on_after(max(0.0, until - self._now())):
            while True:
                refused = await self._try(call)
                if refused is None:
                    return
                why = refused
                pause_s = refused.data["retry_after_s"]
                if not isinstance(pause_s, int):
                    break
                await anyio.sleep(min(float(pause_s), LONGEST_PAUSE_S))
        raise why

    async def admit_now(self, calls: Sequence[CallAsked]) -> int:
        """Let as many in, from the first on, as may be made at once; how many those are.

        Raises:
            StoreFailed: then none of them is in.
        """
        inside = 0
        try:
            while inside < len(calls) and await self._gets_in_now(calls[inside]):
                inside += 1
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.dismiss_unmade([each.call_id for each in calls[:inside]])
            raise
        return inside

    async def _gets_in_now(self, call: CallAsked) -> bool:
        if not self._lines.free(call.provider) or self._counts.are_waited_for(Counted.MODEL_CALLS):
            return False
        try:
            await self._counts.take(Counted.MODEL_CALLS, (call.call_id,), call.key_line)
        except ConcurrencyLimited:
            return False
        return await self._take_turn(call) is None

    async def dismiss(self, call_id: CallId, *, used_tokens: int) -> None:
        """The call is over, or will not be made: `used_tokens` is what it came to. Without effect on others."""
        if (call := self._inside.pop(call_id, None)) is not None:
            self._lines.give_back(call.provider)
            await self._counts.give_back(Counted.MODEL_CALLS, call_id)
            await self._correct(call, used_tokens)

    async def leave_to_others(self, call_id: CallId) -> None:
        """Another replica makes the call of this id: there it stays counted, here it takes nothing."""
        if (call := self._inside.pop(call_id, None)) is not None:
            self._lines.give_back(call.provider)
            self._counts.leave_to_others(Counted.MODEL_CALLS, call_id)
            await self._correct(call, 0)

    async def _correct(self, call: CallAsked, used_tokens: int) -> None:
        try:
            with anyio.CancelScope(shield=True):
                levels = await self._rules.levels_of(call.key_line)
                await self._rules.rates.correct(levels, tokens=used_tokens - call.tokens)
        except StoreFailed as exc:
            log.warning("tokens_not_corrected", call_id=call.call_id, why=str(exc))

    async def dismiss_unmade(self, call_ids: Sequence[CallId]) -> None:
        """These calls will not be made. All at once: each is bounded by the patience with the store."""
        if call_ids:
            async with anyio.create_task_group() as tasks:
                for call_id in call_ids:
                    tasks.start_soon(partial(self.dismiss, call_id, used_tokens=0))

    async def _try(self, call: CallAsked) -> RateLimited | None:
        await self._counts.wait_for(Counted.MODEL_CALLS, (call.call_id,), call.key_line)
        return await self._take_turn(call)

    async def _take_turn(self, call: CallAsked) -> RateLimited | None:
        """With the call counted: its turn and its tokens, or nothing of all."""
        is_in_line = False
        try:
            await self._lines.take(call.provider, self._rules.tenant)
            is_in_line = True
            report = await self._rules.rates.take(await self._rules.levels_of(call.key_line), tokens=call.tokens)
            report.require()
            self._inside[call.call_id] = call
        except BaseException as exc:
            if is_in_line:
                self._lines.give_back(call.provider)
            await self._counts.give_back(Counted.MODEL_CALLS, call.call_id)
            if isinstance(exc, RateLimited):
                return exc
            raise
        return None
