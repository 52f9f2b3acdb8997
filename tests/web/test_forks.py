"""Forks and replays over HTTP."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from service.ids import new_id
from service.tenants.values import CallerLimits, Scope
from tests.runs.playing import ROOT, SUB, repl
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

ASKS = repl("found = llm_query('once')")
SUBMITS = repl("FINAL(found)")


async def ended(it: Served) -> str:
    reply = await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "wait=60"})
    assert reply.status_code == 200, reply.text
    run_id: str = reply.json()["run_id"]
    return run_id


async def test_a_run_is_forked_and_replayed(tmp_path: Path) -> None:
    """The fork answers, says where it comes from and has paid for one call; a request that is sent again makes no
    second one; both runs replay the same; another tenant has neither."""
    async with served(tmp_path, ASKS, SUBMITS) as it:
        source = await ended(it)
        body = {"from_turn": 2, "overrides": {"sub_model": SUB, "limits": {"cost_usd": "0.75", "turns": 9}}}
        headers = {"idempotency-key": "fork once"}
        reply = await it.client.post(f"/v1/runs/{source}/fork", json=body, headers=headers)
        assert reply.status_code == 202, reply.text
        fork = reply.json()["run_id"]
        assert reply.headers["location"] == f"/v1/runs/{fork}"
        again = await it.client.post(f"/v1/runs/{source}/fork", json=body, headers=headers)
        assert (again.json()["run_id"], again.headers["idempotent-replayed"]) == (fork, "true")
        shown = (await it.client.get(f"/v1/runs/{fork}", params={"wait": 60})).json()
        assert shown["answer"]["text"] == "once"
        assert shown["forked_from"] == {"run_id": source, "from_turn": 2}
        assert shown["cost_limit"]["usd"] == "0.75"
        calls = (await it.client.get(f"/v1/runs/{fork}/calls")).json()["calls"]
        assert [(call["is_inherited"], call["cost"]["nano_usd"] > 0) for call in calls] == [
            (True, False),
            (False, True),
        ]
        assert sum(call["cost"]["nano_usd"] for call in calls) == shown["spent"]["nano_usd"]
        for run_id in (source, fork):
            replayed = (await it.client.post(f"/v1/runs/{run_id}/replay")).json()
            assert (replayed["is_same"], replayed["difference"]) == (True, None)
        async with it.as_other_tenant() as other:
            assert (await other.post(f"/v1/runs/{source}/fork", json=body)).status_code == 404
            assert (await other.post(f"/v1/runs/{source}/replay")).status_code == 404


async def test_a_fork_asks_no_model_that_its_key_may_not_use(tmp_path: Path) -> None:
    """Neither one that is named nor one that the source had; and a turn that there is not is refused."""
    async with served(tmp_path, ASKS, SUBMITS) as it:
        source = await ended(it)
        secret = await it.secret(Scope.RUNS, models=(ROOT,))
        async with it.client_with(secret) as client:
            refused = await client.post(f"/v1/runs/{source}/fork", json={"from_turn": 1})
            assert (refused.status_code, refused.json()["code"]) == (403, "model_not_allowed")
        missing = await it.client.post(f"/v1/runs/{source}/fork", json={"from_turn": 7})
        assert (missing.status_code, missing.json()["data"]["param"]) == (400, "from_turn")
        wrong = await it.client.post(
            f"/v1/runs/{source}/fork", json={"from_turn": 1, "overrides": {"limits": {"x": 1}}}
        )
        assert wrong.status_code == 422


async def test_a_run_is_exported_and_imported(tmp_path: Path) -> None:
    """Another tenant imports what one has exported, and replays it; a body of another type or kind is refused."""
    async with served(tmp_path, ASKS, SUBMITS) as it:
        source = await ended(it)
        export = await it.client.get(f"/v1/runs/{source}/export")
        assert export.headers["content-type"].startswith("application/jsonl")
        headers = {"content-type": "application/jsonl"}
        async with it.as_other_tenant() as other:
            assert (await other.get(f"/v1/runs/{source}/export")).status_code == 404
            reply = await other.post("/v1/runs:import", content=export.content, headers=headers)
            assert reply.status_code == 201, reply.text
            shown = reply.json()
            assert (shown["imported_from"], shown["status"]) == (source, "finished")
            assert shown["answer"]["text"] == "once"
            replayed = (await other.post(f"/v1/runs/{shown['run_id']}/replay")).json()
            assert replayed["is_same"] is True
            assert (await other.post("/v1/runs:import", content=export.content)).status_code == 415
            refused = await other.post("/v1/runs:import", content=b"{}\n", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


async def test_an_import_is_counted(tmp_path: Path) -> None:
    """What an import brings beyond what a key may keep is refused, leaves no run, and takes no room; what fits is
    counted."""
    async with served(tmp_path, ASKS, SUBMITS) as it:
        source = await ended(it)
        export = (await it.client.get(f"/v1/runs/{source}/export")).content
        lines = export.splitlines(keepends=True)
        large = b"x" * 100_000
        blob = {"line": "blob", "sha256": hashlib.sha256(large).hexdigest(), "size_bytes": len(large)}
        written = [
            json.dumps(each).encode() + b"\n"
            for each in (
                blob | {"media": "text", "pieces": 1},
                {"line": "piece", "base64": base64.b64encode(large).decode()},
            )
        ]
        submitted = next(n for n, line in enumerate(lines) if b"RunSubmitted" in line)
        event = json.loads(lines[submitted])
        event["event"]["prompt"]["system"] += "x" * 100_000
        wordy = [*lines[:submitted], json.dumps(event).encode() + b"\n", *lines[submitted + 1 :]]
        headers = {"content-type": "application/jsonl"}
        most = len(export) + 50_000
        async with it.client_with(await it.secret(limits=CallerLimits(storage_bytes=most))) as client:
            for hostile in ([lines[0], *written, *lines[1:]], wordy):
                refused = await client.post("/v1/runs:import", content=b"".join(hostile), headers=headers)
                assert (refused.status_code, refused.json()["data"]["limit_name"]) == (429, "storage_bytes")
            assert [run["run_id"] for run in (await client.get("/v1/runs")).json()["runs"]] == [source]
            reply = await client.post("/v1/runs:import", content=export, headers=headers)
            assert reply.status_code == 201, reply.text
            assert (await client.post("/v1/contexts", json={"text": "y" * most})).status_code == 429
            rooms = it.stage.service.runs.rooms
            assert await rooms.uncount(reply.json()["run_id"])


async def test_a_run_from_before_what_is_kept_is_gone(tmp_path: Path) -> None:
    """Its id says so, whether there was such a run or not; an id of today that nobody has is not found."""
    async with served(tmp_path, settings={"RLM_KEEP_RUNS_DAYS": "30"}) as it:
        old = "run_" + "0190" + "0" * 8 + "7" + "0" * 19
        for path in ("", "/events", "/answer", "/trajectory"):
            gone = await it.client.get(f"/v1/runs/{old}{path}")
            assert (gone.status_code, gone.json()["code"]) == (410, "gone")
        assert "kept for 30 days" in gone.json()["detail"]
        missing = await it.client.get(f"/v1/runs/{new_id('run')}")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
