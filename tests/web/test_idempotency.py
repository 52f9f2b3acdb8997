"""`Idempotency-Key`: what is sent twice is done once."""

import hashlib
import json
import time
from typing import Any

import anyio
import pytest

from service.ids import EMBEDDED_TENANT, RunId, new_id
from service.journal.requests import CLAIMED_S, Requests
from service.web.runs.shapes import RunSubmission
from tests.web.serving import Served

pytestmark = pytest.mark.anyio


async def test_a_run_that_is_asked_for_twice_is_one(it: Served) -> None:
    """The second time finds the run of the first, and says so; the model is asked once."""
    body, key = await it.submission(), {"idempotency-key": "one"}
    first = await it.client.post("/v1/runs", json=body, headers=key | {"prefer": "wait=60"})
    asked = len(it.model.root_requests)
    again = await it.client.post("/v1/runs", json=body, headers=key | {"prefer": "wait=60"})
    assert first.json() == again.json()
    assert (first.headers.get("idempotent-replayed"), again.headers.get("idempotent-replayed")) == (None, "true")
    assert len(it.model.root_requests) == asked


async def test_a_key_belongs_to_one_body_and_one_sender(it: Served) -> None:
    """Another body under the same key is refused; the same key from another API key is another request."""
    body, key = await it.submission(), {"idempotency-key": "mine"}
    first = await it.client.post("/v1/runs", json=body, headers=key)
    other_body = await it.client.post("/v1/runs", json=body | {"question": "Other?"}, headers=key)
    assert (other_body.status_code, other_body.json()["code"]) == (422, "idempotency_key_reused")
    async with it.client_with(await it.secret()) as client:
        other_sender = await client.post("/v1/runs", json=body, headers=key)
    assert other_sender.status_code == 202
    assert other_sender.json()["run_id"] != first.json()["run_id"]
    for hostile in (b"", b"\xff", b"x" * 256):
        refused = await it.client.post("/v1/runs", json=body, headers=[(b"idempotency-key", hostile)])
        assert refused.status_code in (400, 422), hostile


async def test_of_many_at_once_one_is_done(it: Served) -> None:
    """Those that come while it is being done are told to come back; afterwards all find the same run."""
    body, key = await it.submission(), {"idempotency-key": "race"}
    replies: list[Any] = []

    async def submit() -> None:
        replies.append(await it.client.post("/v1/runs", json=body, headers=key))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(submit)
    assert {reply.status_code for reply in replies} <= {202, 409}
    assert len({reply.json()["run_id"] for reply in replies if reply.status_code == 202}) == 1
    for reply in replies:
        if reply.status_code == 409:
            assert (reply.json()["code"], reply.headers["retry-after"]) == ("request_in_progress", "1")


async def test_a_replica_that_died_in_the_middle_costs_no_second_run(it: Served) -> None:
    """It had made the run and could not say so: once its claim has run out, the same request finds that run."""
    runs = it.stage.service.runs
    body = json.dumps(await it.submission()).encode()
    caller = await it.api_keys.authenticate(it.client.headers["authorization"].removeprefix("Bearer "))

    async def then() -> float:
        return time.time() - 10 * CLAIMED_S

    long_ago = Requests(it.stage.service.store, EMBEDDED_TENANT, then)
    claim = await long_ago.claim(
        sender=caller.key.id,
        route="POST /v1/runs",
        key="died",
        body_sha256=hashlib.sha256(body).hexdigest(),
        target=new_id("run"),
    )
    made = await runs.submit(RunSubmission.model_validate_json(body).request(caller), RunId(claim.target))
    headers = {"idempotency-key": "died", "content-type": "application/json"}
    for replayed in (None, "true"):
        reply = await it.client.post("/v1/runs", content=body, headers=headers)
        assert (reply.status_code, reply.json()["run_id"]) == (202, made), reply.text
        assert reply.headers.get("idempotent-replayed") == replayed
