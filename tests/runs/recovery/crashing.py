"""Replicas that die at a chosen request to the store, and the world that outlives them: the store and the provider.

A replica is a whole service of its own in this process. It dies as a process does: from the crash point on nothing of
it reaches the store, whatever its code does while it is torn down.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import anyio
import pytest

from service.ids import EMBEDDED_TENANT, RunId, SessionId
from service.journal.redis_journal import Journal
from service.ledger.redis_ledger import Ledger
from service.loop.events import CallFinished, ChildRunFinished, Event, RunFinished
from service.loop.values import CallOutcome, ContextBinding, Limits
from service.models.port import ModelRequest
from service.money import parse_usd
from service.runs.calls.purse import run_account
from service.runs.values import RunRequest
from service.settings import Settings, read_settings
from service.store import connection
from service.store.connection import Command, Reply, Store, open_store
from service.store.embedded import SOCKET
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.wiring.blobs import open_blobs
from service.wiring.service import Service, open_service
from tests.models.protocol_server import serving
from tests.runs.playing import ROOT, SUB, PlayedModel, repl
from tests.stored_files import put_path

Side = Literal["before", "after"]

KEEPS = "kept = [llm_query('first')]"
WORKS = """
kept += [str(r) for r in llm_query_batched(["b0", "b1", "b2"])]
kept.append(rlm_query('CHILD', context='of the parent'))
kept.append(len(context))
"""
ENDS = "kept.append('end')\nFINAL(repr(kept))"
CHILD = ("said = llm_query('in the child')", "FINAL(said + ' ' + context)")
ANSWER = "['first', 'b0', 'b1', 'b2', 'in the child of the parent', 4, 'end']"


def root_turn(request: ModelRequest) -> str:
    """Decided by the conversation alone, so that a call that is made again gets the reply it would have got."""
    turn = sum(message.role == "assistant" for message in request.messages)
    if any("CHILD" in message.content for message in request.messages[1:2]):
        return repl(CHILD[min(turn, 1)])
    return repl((KEEPS, WORKS, ENDS)[min(turn, 2)])


class Crashed(BaseException):
    """The replica is dead. No `except Exception` of it may notice."""


@dataclass(eq=False)
class CrashPoint:
    """Counts the requests of a replica, and kills it before or after the `at`-th."""

    at: int | None = None
    side: Side = "before"
    requests: int = 0
    is_counting: bool = False
    is_dead: bool = False

    def count(self) -> int | None:
        """The number of the request that goes out now; None when it is not counted."""
        if not self.is_counting or _is_by_the_clock():
            return None
        self.requests += 1
        return self.requests

    def die_if(self, number: int | None, side: Side) -> None:
        self.is_dead = self.is_dead or (number is not None and (number, side) == (self.at, self.side))
        if self.is_dead:
            raise Crashed


def _is_by_the_clock() -> bool:
    """Whether the running task is one that looks now and then (`keep_delivering` and the like): on a slow machine it
    looks more often in the time of a run, so its requests are not counted."""
    name = anyio.get_current_task().name or ""
    return name.rpartition(".")[2].startswith(("keep_", "adopt", "_watch_cancel"))


class MortalStore(Store):
    """The store as a replica sees it that has a crash point."""

    point: CrashPoint

    async def _execute(self, commands: Sequence[Command], *, is_idempotent: bool) -> list[Reply]:
        number = self.point.count()  # others go out until this one is answered
        self.point.die_if(number, "before")
        try:
            return await super()._execute(commands, is_idempotent=is_idempotent)
        finally:  # a refusal (a script that is not known yet) is an answer too
            self.point.die_if(number, "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What outlives replicas."""

    settings: Settings
    store: Store
    journal: Journal
    ledger: Ledger
    model: PlayedModel
    directory: Path

    def beside(self) -> Settings:
        """Of a replica that runs beside one with `settings`: over the same store and blobs, with a place of its own for
        what one process cannot share with itself (its gateway's socket bears the process's number)."""
        place = self.directory / "beside"
        place.mkdir(mode=0o700, exist_ok=True)
        if not (place / "blobs").exists():
            (place / "blobs").symlink_to(self.settings.data_directory / "blobs")
        url = f"unix://{self.settings.data_directory / 'store' / SOCKET}"
        return replace(self.settings, data_directory=place, redis_url=url)

    @asynccontextmanager
    async def replica(self, monkeypatch: pytest.MonkeyPatch, point: CrashPoint) -> AsyncIterator[Service]:
        """A serving replica with a crash point; that it died is no failure of the block."""
        monkeypatch.setattr(connection, "Store", type("Mortal", (MortalStore,), {"point": point}))
        try:
            async with open_service(self.settings, serves=True) as service:
                yield service
        except* (Crashed, StoreFailed):  # what the crash tore off beside it fails as a write
            if not point.is_dead:
                raise
        finally:
            monkeypatch.undo()

    async def request(self, service: Service, session_id: SessionId | None) -> RunRequest:
        path = anyio.Path(self.directory / "context.txt")
        await path.write_text("four")
        stored = await put_path(service.contexts, Path(path))
        return RunRequest(
            question="What is it?",
            contexts=(ContextBinding(context_id=stored.context_id),),
            root_model=ROOT,
            sub_model=SUB,
            limits=Limits(cost=parse_usd("5")),
            session_id=session_id,
        )

    async def lapse(self, run_id: RunId) -> None:
        """Let the run's lease run out, now."""
        await self.store.write("ZADD", Keys(EMBEDDED_TENANT)("runs", "unfinished"), "XX", 0, run_id)

    async def events(self, run_id: RunId) -> list[Event]:
        return [entry.event for entry in await self.journal.read_all(run_id)]

    async def family(self, run_id: RunId) -> list[RunId]:
        """The run and all those below it."""
        found = [run_id]
        for child in await self.journal.children_of(run_id):
            found += await self.family(child)
        return found

    async def check_books(self, run_id: RunId) -> None:
        """Every hold is resolved; journals, entries and balance name the same money; the provider was asked for what
        is booked, but for calls that are booked as uncertain, which it may never have seen."""
        journalled, booked, uncertain = 0, 0, 0
        answered: list[object] = []
        for member in await self.family(run_id):
            events = await self.events(member)
            assert isinstance(events[-1], RunFinished), f"{member} did not end"
            calls = [event for event in events if isinstance(event, CallFinished)]
            journalled += sum(call.cost for call in calls)
            answered += [call.origin for call in calls if call.origin is not None and call.outcome is CallOutcome.OK]
            entries = await self.ledger.entries(member)
            booked += len(entries)
            uncertain += sum("uncertain" in entry.flags for entry in entries)
            told = {event.child.run_id for event in events if isinstance(event, ChildRunFinished)}
            assert told == set(await self.journal.children_of(member))
        assert await self.ledger.open_holds() == []
        (balance,) = await self.ledger.balances([run_account(run_id)])
        assert (balance.spent, balance.held) == (journalled, 0)
        asked = len(self.model.root_requests) + len(self.model.sub_requests)
        assert booked - uncertain <= asked <= booked
        assert len(answered) == len(set(answered)), "a call whose result was journalled was made again"

    async def keys(self) -> set[str]:
        reply = await self.store.read("KEYS", "*")
        assert isinstance(reply, list)
        return {key.decode() for key in reply if isinstance(key, bytes)}


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """A store and a provider, for as many replicas as die."""
    model = PlayedModel(turns=(root_turn,))
    async with serving(model=model) as server:
        environment = {
            "RLM_DATA_DIR": str(directory / "data"),
            "OPENAI_BASE_URL": server.base_url,
            "ANTHROPIC_BASE_URL": server.base_url,
            "HOME": str(directory),
            "RLM_WARM_SANDBOXES": "0",
            "RLM_LEASE_S": "600",  # leases run out when a test says so, never by themselves
        }
        settings = read_settings(environment)
        settings.data_directory.mkdir(mode=0o700)
        async with open_store(data_directory=settings.data_directory, redis_url=None) as store:
            blobs = open_blobs(settings, EMBEDDED_TENANT)
            yield World(
                settings=settings,
                store=store,
                journal=Journal(store, blobs, EMBEDDED_TENANT),
                ledger=Ledger(store, EMBEDDED_TENANT, lambda: 0.0),
                model=model,
                directory=directory,
            )


async def end_of(world: World, run_id: RunId) -> RunFinished:
    """Until the run has finished, whoever drives it."""
    with anyio.fail_after(90):
        async for entry in world.journal.follow(run_id):
            if isinstance(entry.event, RunFinished):
                return entry.event
    raise AssertionError("following ends with RunFinished")
