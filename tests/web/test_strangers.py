"""What belongs to one tenant, asked for by another on every route that there is."""

import re
from pathlib import Path
from typing import Any

import pytest

from service.ids import new_id
from tests.web.serving import Served

pytestmark = [pytest.mark.anyio, pytest.mark.needs_bwrap]

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
HOSTILE_IDS = (
    *("%2e%2e", "..%2f..%2fadmin", "%00", "%0d%0ax-evil:%201", "-rf", "--help", "*", "{run_id}"),
    *("x" * 2000, "%ff", "run_", "ctx_", "null", "0", "-1", "1e999"),
)


async def operations(it: Served) -> list[tuple[str, str]]:
    """Method and path of every operation of the API document that names something by its id."""
    paths: dict[str, Any] = (await it.client.get("/openapi.json")).json()["paths"]
    return [
        (method.upper(), path)
        for path, found in paths.items()
        for method in found
        if method in ("get", "put", "post", "delete", "patch", "head") and path.startswith("/v1/") and "{" in path
    ]


def filled(path: str, ids: dict[str, str], other: str) -> str:
    return _PARAMETER.sub(lambda found: ids.get(found[1], other), path)


def without_ids(text: str, *ids: str) -> str:
    for each in ids:
        text = text.replace(each, "ID")
    return re.sub(r'"request_id":"[^"]*"', "", text)


async def test_somebody_elses_ids_are_ids_that_nobody_has(it: Served) -> None:
    """On every route that takes an id, a stranger gets for a real one the status and the words that a made-up one gets,
    and changes nothing."""
    run = (await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "wait=60"})).json()
    session = (await it.client.post("/v1/sessions", json={})).json()
    real = {
        "run_id": run["run_id"],
        "session_id": session["session_id"],
        "context_id": await it.stored("theirs"),
        "upload_id": new_id("upl"),
    }
    made_up = {
        "run_id": new_id("run"),
        "session_id": new_id("ses"),
        "context_id": new_id("ctx"),
        "upload_id": new_id("upl"),
    }
    async with it.as_other_tenant() as stranger:
        for method, path in await operations(it):
            if not {found[0] for found in _PARAMETER.findall(path)} & {"run_id", "session_id", "context_id"}:
                continue
            told = []
            for ids in (real, made_up):
                reply = await stranger.request(method, filled(path, ids, "other"))
                told.append((reply.status_code, without_ids(reply.text, *ids.values())))
            assert told[0] == told[1], (method, path)
            assert told[0][0] >= 400, (method, path)
    assert (await it.client.get(f"/v1/runs/{real['run_id']}")).json()["stop_reason"] == "answered"
    assert (await it.client.get(f"/v1/sessions/{real['session_id']}")).status_code == 200
    assert (await it.client.get(f"/v1/contexts/{real['context_id']}")).status_code == 200


async def test_what_cannot_be_an_id_is_refused_and_never_a_failure(it: Served) -> None:
    """Paths, options, line ends, NULs, wildcards and very long names in the place of an id end in a refusal of the
    caller's, on every route, and no header of theirs comes back."""
    for method, path in await operations(it):
        for hostile in HOSTILE_IDS:
            reply = await it.client.request(method, _PARAMETER.sub(hostile, path))
            assert 400 <= reply.status_code < 500, (method, path, hostile, reply.text)
            assert "x-evil" not in reply.headers


def test_the_walk_meets_what_it_should(tmp_path: Path) -> None:
    """A path with several names is filled with each of them."""
    assert filled("/v1/runs/{run_id}/files/{path:path}", {"run_id": "r"}, "o") == "/v1/runs/r/files/o"
