"""What came of a run: its answer, calls and trajectory; and what it would cost."""

import json
from pathlib import Path

import pytest

from tests.runs.playing import ROOT, repl
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

ASKS = repl("found = llm_query('What is 1 + 1?')\nprint(found)")
SUBMITS = repl("answer['content'] = found * 20_000\nanswer['ready'] = True")


async def ended(it: Served, **more: object) -> str:
    reply = await it.client.post("/v1/runs", json=await it.submission(**more), headers={"prefer": "wait=60"})
    assert reply.status_code == 200, reply.text
    run_id: str = reply.json()["run_id"]
    return run_id


async def test_answers_of_any_size_come_as_they_are_or_in_parts(tmp_path: Path) -> None:
    """Byte for byte, with its digest as entity tag; a range of it; and too large an answer is not in the run itself."""
    async with served(tmp_path, ASKS, SUBMITS) as it:
        run_id = await ended(it)
        reply = await it.client.get(f"/v1/runs/{run_id}/answer")
        assert reply.text == "What is 1 + 1?" * 20_000
        shown = (await it.client.get(f"/v1/runs/{run_id}")).json()["answer"]
        assert (shown["text"], shown["size_bytes"]) == (None, len(reply.content))
        assert reply.headers["etag"] == f'"{shown["sha256"]}"'
        part = await it.client.get(f"/v1/runs/{run_id}/answer", headers={"range": "bytes=5-6"})
        assert (part.status_code, part.text) == (206, "is")


async def test_a_run_tells_its_calls_and_is_exported_in_both_forms(tmp_path: Path) -> None:
    """Each attempt with its cost, which add up to what was spent; a line an event; and a line a turn with code, output
    and sub-calls for the reference visualizer."""
    async with served(tmp_path, ASKS, SUBMITS) as it:
        run_id = await ended(it)
        calls = (await it.client.get(f"/v1/runs/{run_id}/calls", params={"limit": 2})).json()
        rest = (await it.client.get(f"/v1/runs/{run_id}/calls", params={"after": calls["next_after"]})).json()
        assert (calls["is_complete"], rest["is_complete"]) == (False, True)
        every = calls["calls"] + rest["calls"]
        assert [call["purpose"] for call in every] == ["turn", "sub_call", "turn"]
        spent = (await it.client.get(f"/v1/runs/{run_id}")).json()["spent"]["nano_usd"]
        assert sum(call["cost"]["nano_usd"] for call in every) == spent

        native = await it.client.get(f"/v1/runs/{run_id}/trajectory")
        page = (await it.client.get(f"/v1/runs/{run_id}/events", params={"limit": 500})).json()
        assert [json.loads(line) for line in native.text.splitlines()] == page["events"]

        lines = (await it.client.get(f"/v1/runs/{run_id}/trajectory", params={"format": "rlm-jsonl"})).text.splitlines()
        about, first, second = [json.loads(line) for line in lines]
        assert (about["type"], about["root_model"]) == ("metadata", ROOT)
        assert [turn["iteration"] for turn in (first, second)] == [1, 2]
        block = first["code_blocks"][0]
        assert block["code"].startswith("found = llm_query")
        assert block["result"]["stdout"] == "What is 1 + 1?\n"
        assert block["result"]["rlm_calls"][0]["response"] == "What is 1 + 1?"
        assert [message["role"] for message in second["prompt"]] == ["system", "user", "assistant", "user"]
        assert first["final_answer"] is None


async def test_a_run_that_has_no_answer_says_why(tmp_path: Path) -> None:
    """While it runs, 409 and to come back; after an end without one, 404."""
    forever = repl("import time\nwhile True:\n    time.sleep(0.01)")
    async with served(tmp_path, forever) as it:
        run_id = (await it.client.post("/v1/runs", json=await it.submission())).json()["run_id"]
        early = await it.client.get(f"/v1/runs/{run_id}/answer")
        assert (early.status_code, early.json()["code"]) == (409, "run_not_finished")
        await it.client.post(f"/v1/runs/{run_id}/cancel")
        shown = (await it.client.get(f"/v1/runs/{run_id}", params={"wait": 60})).json()
        late = await it.client.get(f"/v1/runs/{run_id}/answer")
        assert late.status_code == (404 if shown["answer"] is None else 200)


async def test_an_estimate_says_what_is_certain_and_what_past_runs_have_cost(it: Served) -> None:
    """Its budget is the most, its first call what must be covered; with enough runs behind it, their spread too.
    Nothing is submitted."""
    async with it.as_other_tenant() as client:
        contexts = [{"context_id": await it.stored(client=client)}]
        body = {"question": "How long?", "contexts": contexts, "root_model": ROOT, "limits": {"cost_usd": "0.50"}}
        before = (await client.post("/v1/runs:estimate", json=body)).json()
        assert before["at_most"]["usd"] == "0.50"
        assert 0 < before["first_call"]["nano_usd"] < before["at_most"]["nano_usd"]
        assert before["past_runs"] == {"runs": 0, "p50": None, "p95": None}
        for _ in range(5):
            ended = await client.post("/v1/runs", json=body, headers={"prefer": "wait=60"})
        after = (await client.post("/v1/runs:estimate", json=body)).json()["past_runs"]
        assert (after["runs"], after["p50"]) == (5, ended.json()["spent"])
        assert len((await client.get("/v1/runs")).json()["runs"]) == 5
        unknown = await client.post("/v1/runs:estimate", json=body | {"root_model": "nobody/knows"})
        assert unknown.json()["code"] == "unknown_model"


async def test_capabilities_are_told_to_every_key_and_to_nobody_else(it: Served) -> None:
    """What code runs in here, with what that cannot promise, and how large a request may be."""
    found = (await it.client.get("/v1/capabilities")).json()
    assert found["sandbox"]["provider"] == "process"
    held = {promise["name"]: (promise["held"], promise["text"]) for promise in found["sandbox"]["promises"]}
    assert held["linux"][0] == "not_held"
    assert all(text for _, text in held.values())
    assert {"host_files", "network", "memory", "side_channels"} < held.keys()
    assert found["bounds"]["json_body_bytes"] == 8 << 20
    async with it.client_with(None) as client:
        assert (await client.get("/v1/capabilities")).status_code == 401
