"""Credentials are planted in whole runs and looked for in everything that is written or told, to whomever: what holds a
run's own code and contexts (its events, its trajectory) must hold no key, no grant and no signing secret either."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.tenants.audit import OPERATORS_CHAIN
from service.web.counting import metrics_app
from service.webhooks.delivering import Delivering
from tests.runs.playing import repl
from tests.web.serving import Served, served
from tests.webhooks.receiving import Heard, receiving

pytestmark = [pytest.mark.anyio, pytest.mark.needs_bwrap]

OPERATORS_KEY, TENANTS_KEY = "sk-canary7f3a-of-the-operator", "sk-canary7f3a-of-the-tenant"

_SEARCH = r"""
import ctypes, os, re
control = bytes([115]) + b"k-canary7f3a-control"  # that the search finds what is there
sought = re.compile(rb"sk-c[a]nary7f3a[-a-z]*|rlm_[a-z]*_[0-9A-Za-z]{20}|wh[s]ec_")
found = set(); libc = ctypes.CDLL(None); way_out, way_in = os.pipe(); os.set_blocking(way_in, False)
def look(where, data, is_last=True):
    for match in sought.finditer(data + b"\0" * is_last):
        if match.end() < len(data) + is_last: found.add(where + ":" + match[0][:30].decode("latin-1"))
look("environment", repr(os.environ).encode())
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "comm", "status", "mountinfo"):
        try: look(name, open(f"/proc/{pid}/{name}", "rb").read())
        except OSError: pass
for root, _, names in os.walk("/rlm/session"):
    for name in names:
        look("name", name.encode())
        try: look("file", open(os.path.join(root, name), "rb").read(1 << 20))
        except OSError: pass
for line in open("/proc/self/maps").read().splitlines():
    first, rights = line.split()[:2]
    start, end = (int(word, 16) for word in first.split("-"))
    if not rights.startswith("r") or "[v" in line or end - start > 64 << 20: continue
    while start < end:  # through a pipe: what is not mapped any more is an error and no crash
        size = libc.write(way_in, ctypes.c_void_p(start), ctypes.c_size_t(min(1 << 16, end - start)))
        if size <= 0: break
        look("memory", os.read(way_out, size), start + size == end)  # what is cut here is whole in the next piece
        start += size if start + size == end else max(size - 64, 64)
"""
ASKS = repl(_SEARCH + "reply = llm_query('What is it?')\nprint('inside:', sorted(found))")
ANSWERS = repl("answer['content'] = repr(vars())\nanswer['ready'] = True")
FAILS = repl(_SEARCH + "print('inside:', sorted(found))\nraise ValueError(os.environ, vars())")


async def _read(client: httpx.AsyncClient, *paths: str) -> str:
    told = []
    for path in paths:
        reply = await client.get(path, headers={"accept": "text/event-stream"} if path.endswith("/events") else {})
        assert reply.status_code in (200, 404), (path, reply.text)
        told.append(f"{reply.headers}\n{reply.text}")
    return "\n".join(told)


async def _told_of_the_run(client: httpx.AsyncClient, run: dict[str, Any]) -> str:
    """All that its own tenant can have of it."""
    path = f"/v1/runs/{run['run_id']}"
    own = [path, *(f"{path}/{part}" for part in ("answer", "artifacts", "events", "calls", "trajectory", "export"))]
    return await _read(client, *own, f"{path}/trajectory?format=rlm-jsonl", "/v1/runs", "/v1/sessions", "/v1/contexts")


async def _told_of_the_tenant(it: Served, client: httpx.AsyncClient, hook: str, secret: str) -> str:
    """Its account, its webhooks, its log; refusals with a credential in what was sent; what the operator reads."""
    told = [
        await _read(client, "/v1/key", "/v1/keys", "/v1/provider-keys", "/v1/usage", "/v1/audit", "/v1/capabilities"),
        await _read(client, "/v1/webhooks", hook, f"{hook}/deliveries", "/openapi.json", "/v1/models"),
    ]
    for body in ({"key": TENANTS_KEY, "more": 1}, {"key": [TENANTS_KEY]}, [TENANTS_KEY]):
        refused = await client.put("/v1/provider-keys/openai", json=body)
        assert refused.status_code == 422
        told.append(refused.text)
    for authorization in (f"Bearer {secret[:-3]}", f"Basic {secret}", f"Bearer {secret} {secret}", secret):
        strange = await client.get("/v1/key", headers={"authorization": authorization})
        told.append(strange.text if strange.status_code != 200 else "")
    transport = httpx.ASGITransport(app=metrics_app(it.rooms.metrics.text))
    async with httpx.AsyncClient(transport=transport, base_url="http://metrics") as reader:
        told.append((await reader.get("/metrics")).text)
    told.append(repr(await it.stage.service.registry.logs.of(OPERATORS_CHAIN).page(limit=100)))
    return "\n".join(told)


def _delivered(heard: list[Heard]) -> str:
    return "\n".join(f"{each.path} {each.headers} {each.body.decode()}" for each in heard)


def _on_disk(directory: Path) -> dict[str, bytes]:
    """All files of the service, its store's among them."""
    files = (Path(root, name) for root, _, names in os.walk(directory) for name in names)
    return {str(file.relative_to(directory)): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize("turns", [(ASKS, ANSWERS), (FAILS,)], ids=["answered", "failing"])
async def test_no_credential_shows_anywhere(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    turns: tuple[str, ...],
) -> None:
    """Neither the operator's nor the tenant's provider key, API key, signing secret or grant is inside the sandbox, in
    an event, trajectory, export, page, refusal, metric, delivery, log line or file, while calls are made with them."""
    grants: list[str] = []
    make = secrets.token_urlsafe

    def noted(size_bytes: int | None = None) -> str:
        grants.append(make(size_bytes))
        return grants[-1]

    monkeypatch.setattr(secrets, "token_urlsafe", noted)
    settings = {"OPENAI_API_KEY": OPERATORS_KEY, "RLM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    async with receiving() as receiver, served(tmp_path, *turns, settings=settings) as it:
        secret = await it.secret()
        async with it.client_with(secret) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(Delivering(it.rooms.webhooks, it.rooms.tenancy).keep_delivering)
            assert (await client.put("/v1/provider-keys/openai", json={"key": TENANTS_KEY})).status_code == 200
            made = await client.post("/v1/webhooks", json={"url": receiver.url})
            rotated = await client.post(f"{made.headers['location']}/rotate")
            signing = [made.json()["secret"], rotated.json()["secret"]]
            asked = await it.submission(limits={"turns": 2})
            run = (await client.post("/v1/runs", json=asked, headers={"prefer": "wait=60"})).json()
            assert run["status"] == "finished", run
            await receiver.heard_at_least(1)
            told = [
                await _told_of_the_run(client, run),
                await _told_of_the_tenant(it, client, made.headers["location"], secret),
            ]
            told.append(_delivered(receiver.heard))
            tasks.cancel_scope.cancel()
        used = {call.headers["authorization"] for call in it.stage.server.calls}
        asked_of_models = json.dumps([str(request) for request in it.model.root_requests + it.model.sub_requests])
    out, err = capfd.readouterr()
    everything = {
        "told": "\n".join(told).encode(),
        "logged": (out + err + caplog.text).encode(),
        "asked of models": asked_of_models.encode(),
        **_on_disk(tmp_path),
    }
    assert grants, "the run had a grant"
    assert used == {f"Bearer {TENANTS_KEY}"}
    assert b"inside: ['memory:sk-canary7f3a-control']" in everything["told"], "the search inside found more, or nothing"
    for credential in (OPERATORS_KEY, TENANTS_KEY, secret, secret.rpartition("_")[2], *signing, *grants):
        where = [name for name, content in everything.items() if credential.encode() in content]
        assert where == [], (where, credential[:8])
