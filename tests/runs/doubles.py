"""Doubles at the ports of `runs`: a model that answers as told, and the values around a call."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import anyio

from service.errors import NotFound
from service.ids import KeyId, RunId, SessionId, TenantId
from service.journal.values import Place
from service.ledger.redis_ledger import Ledger
from service.loop.events import CallFinished, Event, RunSubmitted
from service.loop.values import Limits, Message, Purpose, RenderedPrompt, Usage
from service.models.catalog import Route
from service.models.port import ModelCard, ModelReply, ModelRequest
from service.models.prices import Price, input_token_bound
from service.money import NanoUSD
from service.runs.calls.purse import Purse
from service.runs.calls.values import MeteredCall
from service.runs.dispatch.tenant_rules import TenantRules
from service.runs.standing import Standing
from service.store.connection import Store
from service.store.riders import Rider
from service.tenants.quotas import Quotas
from service.tenants.rates import Rates
from service.tenants.values import CallerLimits, Level

PRICE = Price(input=1_000_000_000, cached_input=1_000_000_000, cache_write=1_000_000_000, output=2_000_000_000)
"""$1 per million input tokens, $2 per million output tokens."""

Answer = Callable[[ModelRequest], Awaitable[ModelReply]]


class ListedJournal(list[Event]):
    """The events of one run, and how often they were gone through, and read one by one."""

    recalls = 0
    look_ups = 0

    async def record(self, event: Event, rider: Rider | None = None, *, ahead: Sequence[Event] = ()) -> Place:
        self.extend((*ahead, event))
        return self._place(len(self))

    async def recall(self) -> AsyncIterator[tuple[Place, Event]]:
        self.recalls += 1
        for seq, event in enumerate(self, 1):
            yield self._place(seq), event

    async def look_up(self, place: Place) -> Event:
        self.look_ups += 1
        if place.seq > len(self):
            raise NotFound("there is no such event")
        return self[place.seq - 1]

    def _place(self, seq: int) -> Place:
        return Place(run_id=RunId("run"), seq=seq)


async def echo(request: ModelRequest) -> ModelReply:
    """Repeats the last message, as far as it may; as many tokens as characters."""
    text = request.messages[-1].content[: request.max_output_tokens]
    return ModelReply(text=text, usage=usage_of(request, text))


def usage_of(request: ModelRequest, text: str) -> Usage:
    """An honest bill: a token a character, and never more output than was allowed."""
    read = sum(len(message.content) for message in request.messages)
    return Usage(input_tokens=read, output_tokens=min(len(text), request.max_output_tokens))


@dataclass(eq=False)
class StandInModel:
    """A `ModelAdapter` that answers through a function and keeps what it was asked."""

    answer: Answer = echo
    requests: list[ModelRequest] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await anyio.lowlevel.checkpoint()
            return await self.answer(request)
        finally:
            self._at_once -= 1

    async def aclose(self) -> None:
        """Nothing is open."""


def route_to(model: StandInModel, name: str = "stand/in", price: Price = PRICE) -> Route:
    card = ModelCard(name=name, window_tokens=100_000, max_output_tokens=4_096)
    return Route(name=name, adapter=model, upstream_model=name, card=card, price=price, provider=name)


def submitted_run(run_id: RunId, *, limits: Limits, deadline_at: float, depth: int = 0) -> RunSubmitted:
    return RunSubmitted(
        at=0.0,
        run_id=run_id,
        session_id=SessionId("ses_" + "0" * 32),
        parent_run_id=None,
        depth=depth,
        question="Which?",
        contexts=(),
        root_model="stand/in",
        sub_model="stand/in",
        root_window_tokens=100_000,
        root_max_output_tokens=1_000,
        limits=limits,
        prompt=RenderedPrompt(system="You answer.", pack="test@1", sha256="0" * 64),
        wrap_up=None,
        deadline_at=deadline_at,
        key_id=KeyId("key_1"),
    )


def standing_of(
    run_id: RunId, model: StandInModel, *, ledger: Ledger, limits: Limits, deadline_at: float, depth: int = 0
) -> Standing:
    submitted = submitted_run(run_id, limits=limits, deadline_at=deadline_at, depth=depth)
    return Standing(
        submitted=submitted,
        lineage=(run_id,),
        purse=Purse(submitted, ledger),
        root_route=route_to(model),
        sub_route=route_to(model),
        epoch=1,
    )


def call_of(standing: Standing, stem: str, prompt: str, *, max_output_tokens: int = 1_000) -> MeteredCall:
    messages = (Message(role="user", content=prompt),)
    return MeteredCall(
        stem=f"{standing.run_id}/{stem}",
        purpose=Purpose.SUB_CALL,
        route=standing.sub_route,
        messages=messages,
        input_tokens=input_token_bound(messages),
        max_output_tokens=max_output_tokens,
        deadline_at=standing.submitted.deadline_at,
        lineage=standing.lineage,
    )


def with_fallbacks(call: MeteredCall, *fallbacks: Route) -> MeteredCall:
    return replace(call, route=replace(call.route, fallbacks=fallbacks))


@dataclass(eq=False)
class Journalled:
    """Where the calls under test append to."""

    calls: list[CallFinished] = field(default_factory=list)

    async def append(self, event: CallFinished, rider: Rider | None = None) -> None:
        """Takes no rider along: who sent it writes it down by itself."""
        self.calls.append(event)

    @property
    def cost(self) -> NanoUSD:
        return NanoUSD(sum(call.cost for call in self.calls))


async def always_active() -> None:
    """A tenant that nobody suspends."""


def rules(
    store: Store,
    tenant: TenantId,
    require_active: Callable[[], Awaitable[None]] = always_active,
    limits: CallerLimits | None = None,
) -> TenantRules:
    """Of a tenant that is not recorded. Without `limits` nothing is limited, and the ledger keeps its own."""

    async def levels_of(key_line: Sequence[KeyId]) -> tuple[Level, ...]:
        return () if limits is None else (Level(kind="tenant", owner=tenant, limits=limits),)

    return TenantRules(
        tenant=tenant,
        require_active=require_active,
        levels_of=levels_of,
        quotas=Quotas(store, tenant, store.now),
        rates=Rates(store, tenant, time.time),
    )
