"""What Prometheus reads of a replica that works."""

import re
from pathlib import Path

import anyio
import httpx
import pytest

from service.web.counting import metrics_app
from tests.machine import ROOT
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

PAGE = Path(ROOT) / "docs" / "metrics.md"


async def read(it: Served) -> str:
    transport = httpx.ASGITransport(app=metrics_app(it.rooms.metrics.text))
    async with httpx.AsyncClient(transport=transport, base_url="http://metrics") as client:
        reply = await client.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert (await client.get("/v1/runs")).status_code == 404
        return reply.text


async def test_what_a_run_did_is_counted_without_its_ids(tmp_path: Path) -> None:
    """Its end, cells, calls, tokens and money, as the run itself says; requests by template, and no path, id, question
    or model anywhere."""
    async with served(tmp_path) as it:
        body = await it.submission(question="a secret question?")
        run = (await it.client.post("/v1/runs", json=body)).json()
        location = f"/v1/runs/{run['run_id']}"
        with anyio.fail_after(120):
            while run["status"] == "running":
                run = (await it.client.get(location, params={"wait": 30})).json()
        await it.client.get("/nowhere/at/all")
        await it.client.request("BREW", "/livez")
        text = await read(it)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['rlm_runs_finished_total{stop_reason="answered"}'] == "1"
    assert lines["rlm_runs_submitted_total"] == "1"
    assert lines['rlm_cells_total{status="ok"}'] == str(run["cells"])
    assert lines['rlm_model_calls_total{purpose="turn",outcome="ok"}'] == str(run["turns"])
    assert lines["rlm_spent_nano_usd_total"] == str(run["spent"]["nano_usd"])
    assert lines['rlm_tokens_total{direction="input"}'] == str(run["input_tokens"])
    assert lines['rlm_http_requests_total{method="POST",route="/v1/runs",status="202"}'] == "1"
    assert lines['rlm_http_requests_total{method="GET",route="none",status="404"}'] == "1"
    assert lines['rlm_http_requests_total{method="other",route="/livez",status="405"}'] == "1"
    assert int(lines['rlm_http_request_seconds_count{route="/v1/runs/{run_id}"}']) >= 1
    for secret in (run["run_id"], "secret", "nowhere", body["root_model"]):
        assert secret not in text


async def test_every_metric_is_documented(tmp_path: Path) -> None:
    """docs/metrics.md has a line for each, and for nothing else."""
    async with served(tmp_path) as it:
        told = set(re.findall(r"^# TYPE (\S+)", await read(it), re.MULTILINE))
    assert told == set(re.findall(r"^\| `(rlm_\w+)`", PAGE.read_text(), re.MULTILINE))
