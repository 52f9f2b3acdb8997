"""From a conversation to its run: whether it may be asked, whether it was asked before, and what headers say."""

from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import anyio.to_thread
from fastapi import Depends, Request

from service.ids import KeyId, RunId, new_id
from service.runs.answering.answering import Answering, Outcome, Prepared
from service.runs.answering.conversation import Conversation
from service.runs.answering.deciding import Decision
from service.runs.answering.profiles import DIRECT_PREFIX
from service.runs.requests.once import once
from service.runs.requests.repeats import Try, attach_or_act
from service.tenants.values import Caller
from service.web.bodies import INLINE_BYTES
from service.web.callers import CallerOfRequest, HoldingsOfCaller, RoomsOfService, RunsOfCaller
from service.web.dialects.allowing import require_name
from service.web.dialects.reports import RlmReport, report
from service.web.idempotency import REPLAYED, sent_by

RUN_ID = "x-rlm-run-id"
DECISION = "x-rlm-decision"
_RETRY_COUNT = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A conversation that has its run. A stream keeps this for its whole life, so the conversation is not in it."""

    run_id: RunId
    model: str
    """As the client named it."""
    decision: Decision
    answering: Answering
    was_asked_before: bool

    def report(self, outcome: Outcome) -> RlmReport:
        """What its answer says about the run."""
        return report(self.decision, outcome, was_asked_before=self.was_asked_before)

    @property
    def headers(self) -> dict[str, str]:
        decision = self.decision
        found = {
            RUN_ID: self.run_id,
            DECISION: f"{decision.way}; tokens<={decision.tokens_bound}; threshold={decision.threshold}",
        }
        return found | ({REPLAYED: "true"} if self.was_asked_before else {})


class Asks(Protocol):
    """The body of a request, whatever its dialect."""

    def conversation(self, key_id: KeyId) -> Conversation:
        """As it was sent. Raises `UnsupportedParameter` or `BadRequest`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whoever sends a request of a dialect."""

    request: Request
    caller: Caller
    answering: Answering
    runs: RunsOfCaller

    async def conversation_of(self, body: Asks) -> Conversation:
        """What the request asks; a large one is looked through where that holds up nobody else.

        Raises:
            UnsupportedParameter, BadRequest: see `Asks.conversation`.
        """
        if len(await self.request.body()) <= INLINE_BYTES:
            return body.conversation(self.caller.key.id)
        return await anyio.to_thread.run_sync(body.conversation, self.caller.key.id)

    async def ask(self, conversation: Conversation) -> Asked:
        """The conversation's run: that of an earlier try, or a new one.

        Raises:
            ModelNotAllowed: the key's allow-list has neither the name nor what it stands for.
            RlmServiceError: as `Answering.prepare` and `Answering.begin`.
        """
        asking = self.caller.key
        conversation = replace(conversation, key_id=asking.id, key_ancestors=asking.ancestors)
        prepared = await self.answering.prepare(conversation)
        _check_models(self.caller, prepared)

        async def begin(run_id: str) -> None:
            await self.answering.begin(prepared, RunId(run_id))

        sent = await sent_by(self.request, self.caller)
        own_key = self.request.headers.get("idempotency-key")
        requests = self.runs.rooms.requests
        if own_key is not None:
            done = await once(requests, sent, own_key, new_target=_new_run_id, act=begin)
        else:
            done = await attach_or_act(
                requests,
                sent,
                _which_try(self.request),
                new_target=_new_run_id,
                act=begin,
                still_stands=self.answering.still_stands,
            )
        return Asked(
            run_id=RunId(done.target),
            model=conversation.model,
            decision=prepared.decision,
            answering=self.answering,
            was_asked_before=done.was_done_before,
        )


def answering_of(rooms: RoomsOfService, runs: RunsOfCaller, holdings: HoldingsOfCaller) -> Answering:
    return Answering(
        runs, rooms.profiles, rooms.live, lambda context, since: holdings.keep_context(context, since=since)
    )


AnsweringOfCaller = Annotated[Answering, Depends(answering_of)]


def asker_of(request: Request, caller: CallerOfRequest, runs: RunsOfCaller, answering: AnsweringOfCaller) -> Asker:
    return Asker(request=request, caller=caller, answering=answering, runs=runs)


AskerOfRequest = Annotated[Asker, Depends(asker_of)]


def _new_run_id() -> RunId:
    return RunId(new_id("run"))


def _which_try(request: Request) -> Try:
    count = request.headers.get(_RETRY_COUNT)
    if count is None or not count.isdecimal():
        return Try.UNKNOWN
    return Try.FIRST if int(count[:9]) == 0 else Try.AGAIN


def _check_models(caller: Caller, prepared: Prepared) -> None:
    """Raises `ModelNotAllowed`."""
    conversation = prepared.conversation
    for named in (conversation.root_model, conversation.sub_model):
        if named is not None:
            caller.require_model(named)
    calls_sub_model = not conversation.model.startswith(DIRECT_PREFIX) and prepared.decision.way == "rlm"
    stands_for = (prepared.sub_model, prepared.root_model) if calls_sub_model else (prepared.root_model,)
    require_name(caller, conversation.model, stands_for)
