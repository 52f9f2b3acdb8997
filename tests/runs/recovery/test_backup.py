"""Backup and restore as docs/operations.md has it: a real server's RDB file and the blobs, copied while runs go on."""

import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.ids import RunId
from service.loop.events import CallFinished, RunFinished, RunTakenOver
from service.loop.values import CallOutcome
from service.models.port import ModelReply, ModelRequest
from service.store.connection import Store, open_store
from tests.chaos.audit import Auditor
from tests.models.protocol_server import serving
from tests.runs.doubles import usage_of
from tests.runs.playing import ROOT, SUB, repl
from tests.serve_process import PATIENCE_S, client_of, replica
from tests.store_server import start_store_server, store_server

pytestmark = [pytest.mark.anyio, pytest.mark.takes_long]

TURNS = (
    repl("one = llm_query('first ' + context)\nprint(one)"),
    repl("two = llm_query('second ' + context)\nprint(two)"),
    repl("FINAL(one + ', ' + two)"),
)
SECRETS = ("pepper", "vault-key")


@dataclass(eq=False)
class Clerk:
    """A `ModelAdapter`: the root asks the sub-model twice; the second answer about `going` comes when it may."""

    asked: Counter[str] = field(default_factory=Counter)
    is_asked: anyio.Event = field(default_factory=anyio.Event)
    may_answer: anyio.Event = field(default_factory=anyio.Event)

    async def complete(self, request: ModelRequest) -> ModelReply:
        last = request.messages[-1].content
        if request.model == SUB.removeprefix("openai/"):
            self.asked[last] += 1
            if last == "second going":
                self.is_asked.set()
                await self.may_answer.wait()
            text = last.upper()
        else:
            turn = sum(message.role == "assistant" for message in request.messages)
            text = TURNS[turn]
        return ModelReply(text=text, usage=usage_of(request, text))

    async def aclose(self) -> None:
        """Nothing is open."""


async def submit(client: httpx.AsyncClient, content: str) -> RunId:
    context = (await client.post("/v1/contexts", params={"name": content}, content=content)).raise_for_status().json()
    request = {
        "question": "?",
        "contexts": [{"context_id": context["context_id"]}],
        "root_model": ROOT,
        "sub_model": SUB,
    }
    run: dict[str, Any] = (await client.post("/v1/runs", json=request)).raise_for_status().json()
    return RunId(run["run_id"])


async def answer_of(client: httpx.AsyncClient, run_id: RunId) -> str:
    """Once the run has ended."""
    with anyio.fail_after(PATIENCE_S):
        while (await client.get(f"/v1/runs/{run_id}", params={"wait": 20})).json()["stop_reason"] is None:
            pass
    return (await client.get(f"/v1/runs/{run_id}/answer")).raise_for_status().text


async def back_up(original: Path, backup: Path) -> None:
    """The store first, then the blobs; then what is secret."""
    async with store_of(original) as store:
        await store.write("BGSAVE")
        with anyio.fail_after(PATIENCE_S):
            while b"rdb_bgsave_in_progress:0" not in await persistence(store):
                pass
        assert b"rdb_last_bgsave_status:ok" in await persistence(store)
    await anyio.Path(backup).mkdir()
    shutil.copy(original / "dump.rdb", backup)
    shutil.copytree(original / "data" / "blobs", backup / "blobs")
    for name in SECRETS:
        shutil.copy2(original / "data" / name, backup)


async def restore(backup: Path, target: Path) -> None:
    """Into a directory that has nothing: the server reads the file, then begins an append-only file of its own."""
    await anyio.Path(target / "data").mkdir(parents=True, mode=0o700)
    shutil.copy(backup / "dump.rdb", target)
    shutil.copytree(backup / "blobs", target / "data" / "blobs")
    for name in SECRETS:
        shutil.copy2(backup / name, target / "data")
    async with await start_store_server(target, "--appendonly", "no") as process:
        async with store_of(target) as store:
            await store.write("CONFIG", "SET", "appendonly", "yes")
            with anyio.fail_after(PATIENCE_S):
                while b"aof_rewrite_in_progress:0" not in (text := await persistence(store)) or (
                    b"aof_rewrite_scheduled:0" not in text
                ):
                    pass
            assert b"aof_last_bgrewrite_status:ok" in text
        process.terminate()
        await process.wait()


async def persistence(store: Store) -> bytes:
    reply = await store.read("INFO", "persistence")
    assert isinstance(reply, bytes)
    return reply


@asynccontextmanager
async def store_of(directory: Path) -> AsyncIterator[Store]:
    async with open_store(data_directory=directory, redis_url=f"unix://{directory / 's'}") as store:
        yield store


async def check_books(directory: Path, run_id: RunId) -> list[CallFinished]:
    """Journal, entries and balance name the same money, and nothing is held; the run's calls."""
    async with store_of(directory) as store:
        auditor = Auditor(store, directory / "data")
        books = await auditor.books(run_id)
        booked = sum(entry.nano_usd for entry in books.entries)
        assert await auditor.spent_and_held(run_id) == (booked, 0)
        assert sum(call.cost for call in books.calls) == booked > 0
        ends = [event for event in books.events[run_id] if isinstance(event, RunFinished)]
        assert [end.spent for end in ends] == [booked]
        assert await auditor.leaked_keys() == []
        return books.calls


async def test_a_backup_brings_everything_back(tmp_path: Path) -> None:
    """What had ended is there with its answer, what was going on goes on to its end, keys work, books agree; no call
    that was journalled before the copy is made again, and the one in flight then is, charged as uncertain."""
    original, backup, restored = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    await anyio.Path(original).mkdir()
    clerk = Clerk()
    async with serving(model=clerk) as upstream:
        async with store_server(original), replica(original, upstream.base_url) as first:
            key = first.admin_key
            assert key is not None
            async with client_of(first.address, key) as client:
                ended = await submit(client, "ended")
                assert await answer_of(client, ended) == "FIRST ENDED, SECOND ENDED"
                going = await submit(client, "going")
                with anyio.fail_after(PATIENCE_S):
                    await clerk.is_asked.wait()
                await back_up(original, backup)
                clerk.may_answer.set()
                assert await answer_of(client, going) == "FIRST GOING, SECOND GOING"
        await restore(backup, restored)
        async with store_server(restored), replica(restored, upstream.base_url) as second:
            async with client_of(second.address, key) as client:
                assert await answer_of(client, ended) == "FIRST ENDED, SECOND ENDED"
                assert await answer_of(client, going) == "FIRST GOING, SECOND GOING"
            assert len(await check_books(restored, ended)) == 5
            calls = await check_books(restored, going)
            assert [call.outcome for call in calls].count(CallOutcome.CANCELLED) == 1
            async with store_of(restored) as store:
                books = await Auditor(store, restored / "data").books(going)
            (taken_over,) = [event for event in books.events[going] if isinstance(event, RunTakenOver)]
            assert taken_over.uncertain_calls == 1
        assert clerk.asked == {"first ended": 1, "second ended": 1, "first going": 1, "second going": 2}
