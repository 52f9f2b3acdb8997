"""A root LM played by the test, and the whole service around it: real store, gateway, sandboxes and HTTP provider."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from service.ids import EMBEDDED_TENANT, RunId, SessionId
from service.ledger.values import Account, Level, Period
from service.loop.events import Event, RunFinished
from service.loop.values import ContextBinding, Limits
from service.models.port import ModelReply, ModelRequest
from service.runs.values import RunRequest
from service.settings import read_settings
from service.store.exchanges import PutsBefore, nothing_before
from service.tenants.key_plans import KeyRequest
from service.tenants.values import NO_LIMITS, OPERATOR, Author, Caller, CallerLimits, Scope
from service.wiring.service import Service, open_service
from tests.models.protocol_server import ProtocolServer, serving
from tests.runs.doubles import Answer, echo, usage_of
from tests.stored_files import put_path

ROOT = "openai/gpt-4o-mini"
SUB = "openai/gpt-4.1-nano"
"""Two models with prices in the published map; who answers is the local server."""

Turn = str | Callable[[ModelRequest], str]


def repl(code: str) -> str:
    """A reply of one code block."""
    return f"```repl\n{code}\n```"


@dataclass(eq=False)
class PlayedModel:
    """A `ModelAdapter`: the root's turns are given one after the other (the last repeats), sub-calls by a function."""

    turns: Sequence[Turn]
    sub: Answer = echo
    root_requests: list[ModelRequest] = field(default_factory=list)
    sub_requests: list[ModelRequest] = field(default_factory=list)
    was_asked: anyio.Event = field(default_factory=anyio.Event)
    """Set by the root's first turn."""
    most_sub_calls_at_once: int = 0
    _sub_calls: int = 0

    async def complete(self, request: ModelRequest) -> ModelReply:
        if request.model == SUB.removeprefix("openai/"):
            return await self._answer_sub_call(request)
        turn = self.turns[min(len(self.root_requests), len(self.turns) - 1)]
        self.root_requests.append(request)
        self.was_asked.set()
        text = turn if isinstance(turn, str) else turn(request)
        return ModelReply(text=text, usage=usage_of(request, text))

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _answer_sub_call(self, request: ModelRequest) -> ModelReply:
        self.sub_requests.append(request)
        self._sub_calls += 1
        self.most_sub_calls_at_once = max(self.most_sub_calls_at_once, self._sub_calls)
        try:
            return await self.sub(request)
        finally:
            self._sub_calls -= 1

    @property
    def last_observation(self) -> str:
        """What the root was told last."""
        return self.root_requests[-1].messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The service with a played model behind its provider."""

    service: Service
    server: ProtocolServer
    model: PlayedModel
    directory: Path

    async def request(
        self, context: str | bytes, limits: Limits | None = None, session_id: SessionId | None = None
    ) -> RunRequest:
        path = anyio.Path(self.directory / "context.txt")
        await path.write_bytes(context if isinstance(context, bytes) else context.encode())
        stored = await put_path(self.service.contexts, Path(path))
        return RunRequest(
            question="What is it?",
            contexts=(ContextBinding(context_id=stored.context_id),),
            root_model=ROOT,
            sub_model=SUB,
            limits=limits or Limits(),
            session_id=session_id,
        )

    async def caller(self, limits: CallerLimits = NO_LIMITS, *, by: Author = OPERATOR) -> Caller:
        """Whoever has a new key of the tenant `default` with these limits."""
        registry = self.service.registry
        await registry.tenants.ensure_default()
        asked = KeyRequest(name="test", scopes=frozenset({Scope.RUNS, Scope.KEYS}), limits=limits)
        issued = await registry.api_keys.create(EMBEDDED_TENANT, asked, by=by)
        return await registry.api_keys.authenticate(issued.secret)

    async def play(self, request: RunRequest) -> "Played":
        """Submit, drive and follow to the end."""
        run_id = await self.service.runs.submit(request)
        self.service.runs.start(run_id)
        events = [entry.event async for entry in self.service.runs.follow(run_id)]
        answer = b"".join([chunk async for chunk in self.service.runs.answer_chunks(run_id)])
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        return Played(run_id=run_id, events=events, finished=finished, answer=answer)


def asked_by(request: RunRequest, caller: Caller) -> RunRequest:
    """The request as this caller makes it."""
    return replace(request, key_id=caller.key.id, key_ancestors=caller.key.ancestors)


def day_of(caller: Caller) -> Account:
    """The account of the caller's key today."""
    return Account(level=Level.KEY, owner=caller.key.id, period=Period.DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    run_id: RunId
    events: list[Event]
    finished: RunFinished
    answer: bytes


@asynccontextmanager
async def stage(
    directory: Path,
    *turns: Turn,
    sub: Answer = echo,
    settings: dict[str, str] | None = None,
    exchanges_over: PutsBefore = nothing_before,
) -> AsyncIterator[Stage]:
    """The whole service, with its data in `directory`, for one test."""
    model = PlayedModel(turns=turns, sub=sub)
    async with serving(model=model) as server:
        environment = {
            "RLM_DATA_DIR": str(directory / "data"),
            "OPENAI_BASE_URL": server.base_url,
            "ANTHROPIC_BASE_URL": server.base_url,
            "HOME": str(directory),
        }
        read = read_settings(environment | (settings or {}))
        async with open_service(read, exchanges_over=exchanges_over) as service:
            yield Stage(service=service, server=server, model=model, directory=directory)
