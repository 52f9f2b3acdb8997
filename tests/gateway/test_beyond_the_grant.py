"""A hostile sandbox at the gateway of the whole service, with a grant that is its own: it gets what its run may have.

The sandbox's own cell sleeps meanwhile, so that the gateway takes calls for it; what is forged here comes from the
test, over the gateway's socket.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.ids import RunId
from service.loop.events import ChildRunFinished, RunFinished
from service.loop.values import Limits
from service.money import NanoUSD, parse_usd
from service.runs.host_calls.grants import Grants
from service.runs.host_calls.host_calls import HostCalls, OpenCell
from service.sandboxes.socket_path import short_path
from tests.runs.playing import SUB, Stage, repl, stage

pytestmark = pytest.mark.anyio

SLEEPS = repl("import time; time.sleep(3600)")
FUNCTION = "llm_query_batched"


@dataclass(eq=False)
class Held:
    """A run whose cell waits for its sub-call, and a grant for whatever else that cell may ask."""

    on: Stage
    run_id: RunId
    client: httpx.AsyncClient
    cell_id: str

    async def ask(self, function: str = FUNCTION, ordinal: int = 7, **arguments: Any) -> httpx.Response:
        """A host call of the waiting cell."""
        body = {"cell_id": self.cell_id, "function": function, "ordinal": ordinal, "arguments": arguments}
        return await self.client.post("/host-calls", json=body)

    async def finished(self) -> RunFinished:
        """Cancel the run, and wait for its end."""
        await self.on.service.runs.cancel(self.run_id)
        last = [entry.event async for entry in self.on.service.runs.follow(self.run_id)][-1]
        assert isinstance(last, RunFinished)
        return last


@asynccontextmanager
async def held(directory: Path, **limits: Any) -> AsyncIterator[Held]:
    async with stage(directory, SLEEPS) as on:
        runs = on.service.runs
        run_id = await runs.submit(await on.request("c", Limits(cell_active_s=3600, **limits)))
        runs.start(run_id)
        host_calls, expires_at, cell = await _open_cell_of(runs.rooms.grants)
        (socket,) = (directory / "data").glob("gateway-*.sock")
        with (
            runs.rooms.grants.granted(host_calls, expires_at=expires_at) as token,
            short_path(socket.parent, socket.name) as path,
        ):
            async with httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=path, limits=httpx.Limits(max_connections=50)),
                base_url="http://gateway",
                headers={"authorization": f"Bearer {token}"},
                timeout=httpx.Timeout(90, pool=None),
            ) as client:
                yield Held(on, run_id, client, cell.wire_id)


async def _open_cell_of(grants: Grants) -> tuple[HostCalls, float, OpenCell]:
    """Those of the only run, once its cell is running."""
    with anyio.fail_after(90):
        while True:
            for host_calls, expires_at in grants._granted.values():
                if host_calls._open_cell is not None:
                    return host_calls, expires_at, host_calls._open_cell
            await anyio.sleep(0.01)


BEYOND: tuple[object, ...] = (
    *("openai/gpt-4o", "direct/gpt-4o", "", "../" + SUB, SUB + "\r\nx-evil: 1", "http://127.0.0.1/v1"),
    *(7, ["a"], {}),
)


async def test_a_model_beyond_the_grant_is_not_asked(tmp_path: Path) -> None:
    """Only the run's own two models answer; another name is 400, and nothing of it reaches a provider or is paid."""
    async with held(tmp_path) as it:
        asked = len(it.on.server.calls)
        for model in BEYOND:
            reply = await it.ask(prompts=["x"], model=model, schema=None)
            assert (reply.status_code, reply.json()["code"]) == (400, "bad_request"), model
        assert len(it.on.server.calls) == asked
        assert (await it.ask(prompts=["x"], model=SUB, schema=None)).json()["items"][0]["value"] == "x"


async def test_what_else_is_asked_for_is_not_passed_on(tmp_path: Path) -> None:
    """URLs, keys, tools, headers, other tenants, token counts and temperatures beside the arguments change nothing of
    what a provider is sent."""
    forged: dict[str, Any] = {
        "api_base": "http://127.0.0.1:1/forged",
        "base_url": "http://127.0.0.1:1/forged",
        "api_key": "forged",
        "extra_headers": {"x-forged": "forged"},
        "tools": [{"type": "web_search", "name": "forged"}],
        "tenant_id": "ten_forged",
        "run_id": "run_forged",
        "max_output_tokens": float("1e30"),
        "usage": {"input_tokens": -1, "forged": 1},
        "depth": 99,
    }
    async with held(tmp_path) as it:
        reply = await it.ask(prompts=["plain"], model=None, schema=None, **forged)
        assert reply.json()["items"][0]["value"] == "plain"
        sent = it.on.server.calls[-1]
        assert "forged" not in json.dumps([sent.path, sent.headers, sent.body])
        assert "tools" not in sent.body
        (entry,) = [
            each
            for each in await it.on.service.runs.rooms.ledger.entries(it.run_id)
            if each.purpose == "sub_call" and "/7/" in each.call_id
        ]
        assert entry.run_id == it.run_id


async def test_numbers_that_are_none_are_no_host_call(tmp_path: Path) -> None:
    """NaN and infinities, as Python's JSON writes them, never get past the gateway's door."""
    async with held(tmp_path) as it:
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1", "0.5"):
            body = (
                f'{{"cell_id": "{it.cell_id}", "function": "{FUNCTION}", "ordinal": {number}, '
                '"arguments": {"prompts": ["x"], "model": null, "schema": null}}'
            )
            assert (await it.client.post("/host-calls", content=body)).status_code == 400
        assert (await it.ask(prompts=["x"], model=None, schema=None)).status_code == 200


async def test_a_child_beyond_the_depth_is_no_run(tmp_path: Path) -> None:
    """Whatever depth a call claims, a run that may have no children gets a plain sub-call for its prompt."""
    async with held(tmp_path, depth=0) as it:
        reply = await it.ask("rlm_query", prompts=["below"], model=None, schema=None, depth=-5, limits={"depth": 9})
        assert (reply.status_code, reply.json()["items"][0]["ok"]) == (200, True)
        await it.finished()
        events = [entry.event for entry in await it.on.service.runs.rooms.events_of(it.run_id)]
        assert not [event for event in events if isinstance(event, ChildRunFinished)]
        assert await it.on.service.runs.rooms.journal.children_of(it.run_id) == []


async def test_another_sessions_grant_opens_only_that_session(tmp_path: Path) -> None:
    """A stolen grant does not make calls of the thief's cell; a call names a cell that is open under the grant."""
    async with held(tmp_path) as it:
        mine = it.cell_id
        it.cell_id = "run_00000000-0000-7000-8000-000000000000.t1.b0"
        reply = await it.ask(prompts=["x"], model=None, schema=None)
        assert (reply.status_code, reply.json()["code"]) == (409, "host_call_refused")
        it.cell_id = mine
        assert (await it.ask(prompts=["x"], model=None, schema=None)).status_code == 200


async def test_a_grant_ends_with_its_run(tmp_path: Path) -> None:
    """After the run's end the same token and the same call are refused, and nothing more is paid."""
    async with held(tmp_path) as it:
        spent = (await it.finished()).spent
        reply = await it.ask(prompts=["x"], model=None, schema=None)
        assert reply.status_code in (401, 409)
        assert sum(each.nano_usd for each in await it.on.service.runs.rooms.ledger.entries(it.run_id)) == spent


@pytest.mark.takes_long
async def test_a_thousand_calls_at_the_budgets_edge_never_overspend(tmp_path: Path) -> None:
    """Of a thousand sub-calls at once, alone and in batches, those that the budget holds are answered and paid; all
    others are told so, and what is spent stays within the limit."""
    cost: NanoUSD = parse_usd("0.004")
    prompt = "x" * 400
    async with held(tmp_path, cost=cost) as it:
        kinds: list[str] = []

        async def ask(ordinal: int, prompts: int) -> None:
            reply = await it.ask(ordinal=ordinal, prompts=[prompt] * prompts, model=None, schema=None)
            kinds.extend("paid" if item["ok"] else item["kind"] for item in reply.json()["items"])

        async with anyio.create_task_group() as tasks:
            for ordinal in range(40):
                tasks.start_soon(ask, ordinal, 1)
                tasks.start_soon(ask, ordinal, 24)
        assert len(kinds) == 1000
        assert set(kinds) == {"paid", "budget"}
        assert (await it.finished()).spent <= cost
        entries = await it.on.service.runs.rooms.ledger.entries(it.run_id)
        assert sum(each.nano_usd for each in entries) <= cost
        assert sum(prompt in json.dumps(call.body) for call in it.on.server.calls) == kinds.count("paid")
