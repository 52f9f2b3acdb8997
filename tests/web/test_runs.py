"""Runs over HTTP: submitted, waited for, shown, listed, cancelled."""

from pathlib import Path

import pytest

from service.tenants.values import OPERATOR
from tests.runs.playing import ROOT, repl
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio


async def test_a_run_is_submitted_and_shown_until_it_is_finished(it: Served) -> None:
    """202 with the place of the run; there it is shown as running, then as finished, with a small answer in it."""
    reply = await it.client.post("/v1/runs", json=await it.submission())
    assert reply.status_code == 202, reply.text
    shown = reply.json()
    while shown["status"] == "running":
        shown = (await it.client.get(reply.headers["location"], params={"wait": 20})).json()
    assert shown["stop_reason"] == "answered"
    assert shown["answer"]["text"] == "4"
    assert shown["spent"]["nano_usd"] > 0


async def test_whoever_prefers_to_wait_gets_the_ended_run(it: Served) -> None:
    """`Prefer: wait=30` answers 200 with the run as it ended, and says that it has waited."""
    reply = await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "respond-async, wait=30"})
    assert reply.status_code == 200, reply.text
    assert reply.headers["preference-applied"] == "wait=30"
    assert reply.json()["answer"]["text"] == "4"


async def test_a_run_that_has_not_changed_is_not_sent_again(it: Served) -> None:
    """The entity tag of a run answers 304 as long as nothing has happened to it."""
    run = (await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "wait=30"})).json()
    first = await it.client.get(f"/v1/runs/{run['run_id']}")
    again = await it.client.get(f"/v1/runs/{run['run_id']}", headers={"if-none-match": first.headers["etag"]})
    other = await it.client.get(f"/v1/runs/{run['run_id']}", headers={"if-none-match": '"1"'})
    assert (first.status_code, again.status_code, other.status_code) == (200, 304, 200)
    assert again.content == b""


async def test_runs_are_listed_page_by_page_the_newest_first(it: Served) -> None:
    """Cursors lead through all runs of the tenant, once each; of another tenant's there are none."""
    async with it.as_other_tenant() as client:
        contexts = [{"context_id": await it.stored(client=client)}]
        body = {"question": "How long?", "contexts": contexts, "root_model": ROOT}
        made = [(await client.post("/v1/runs", json=body)).json()["run_id"] for _ in range(3)]
        found: list[str] = []
        page = (await client.get("/v1/runs", params={"limit": 2})).json()
        while True:
            found += [run["run_id"] for run in page["runs"]]
            if page["next_cursor"] is None:
                break
            page = (await client.get("/v1/runs", params={"limit": 2, "cursor": page["next_cursor"]})).json()
        assert found == made[::-1]
        unusable = await client.get("/v1/runs", params={"cursor": "zzz"})
        assert (unusable.status_code, unusable.json()["data"]["param"]) == (400, "cursor")


async def test_a_refused_submission_leaves_nothing_behind(it: Served) -> None:
    """A run over a context that there is not, or with a model that nobody knows, makes no session and no run."""
    tenant = await it.tenants.create("refused", by=OPERATOR)
    async with it.client_with(await it.secret(tenant_id=tenant.id)) as client:
        context_id = await it.stored(client=client)
        body = {"question": "How long?", "contexts": [{"context_id": context_id}], "root_model": ROOT}
        for wrong in (
            body | {"contexts": [{"context_id": "ctx_" + "0" * 32}]},
            body | {"root_model": "nobody/knows"},
            body | {"limits": {"cost_usd": "0.000001"}},
            body | {"limits": {"turns": 0}},
        ):
            reply = await client.post("/v1/runs", json=wrong, headers={"idempotency-key": "once"})
            assert reply.status_code in (400, 402, 404, 422), reply.text
        store = it.stage.service.store
        kept = await store.read("KEYS", f"rlm:{{{tenant.id}}}:*")
        assert isinstance(kept, list)
        assert not [
            key for key in kept if isinstance(key, bytes) and (b":run" in key or b":ses" in key or b":req" in key)
        ]


async def test_a_run_is_cancelled_as_often_as_one_likes(tmp_path: Path) -> None:
    """The first time ends it; a run that has ended stays as it is."""
    forever = repl("import time\nwhile True:\n    time.sleep(0.01)")
    async with served(tmp_path, forever) as it:
        run_id = (await it.client.post("/v1/runs", json=await it.submission())).json()["run_id"]
        await it.model.was_asked.wait()
        replies = [await it.client.post(f"/v1/runs/{run_id}/cancel") for _ in range(2)]
        assert [reply.status_code for reply in replies] == [202, 202]
        shown = (await it.client.get(f"/v1/runs/{run_id}", params={"wait": 60})).json()
        assert shown["stop_reason"] == "cancelled"
        assert (await it.client.post(f"/v1/runs/{run_id}/cancel")).json()["stop_reason"] == "cancelled"
