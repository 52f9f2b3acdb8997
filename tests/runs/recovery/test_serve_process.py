"""A real `serve` process: told over the API to end, and read by Prometheus."""

import re
from pathlib import Path

import anyio
import pytest

from tests.models.protocol_server import serving
from tests.runs.playing import PlayedModel
from tests.serve_process import PATIENCE_S, client_of, end, environment, replica, start_replica
from tests.store_server import store_server

pytestmark = [pytest.mark.anyio, pytest.mark.takes_long]


async def test_a_replica_ends_when_the_operator_says_so(tmp_path: Path) -> None:
    """It answers, exits with 0, and the operator's log of the next one says who asked."""
    async with serving(model=PlayedModel(turns=("",))) as upstream, store_server(tmp_path):
        async with replica(tmp_path, upstream.base_url) as first:
            key = first.admin_key
            assert key is not None
            async with client_of(first.address, key) as client:
                assert (await client.post("/v1/admin/drain")).status_code == 202
            with anyio.fail_after(PATIENCE_S):
                assert await first.process.wait() == 0
        async with replica(tmp_path, upstream.base_url) as second, client_of(second.address, key) as client:
            records = (await client.get("/v1/admin/audit")).json()["records"]
            assert records[-1]["action"] == "replica.drained"


async def test_metrics_are_read_at_a_port_of_their_own(tmp_path: Path) -> None:
    """Not at the API's address, without a key, and with what was asked of the API."""
    log = tmp_path / "log"
    async with serving(model=PlayedModel(turns=("",))) as upstream, store_server(tmp_path):
        with log.open("wb") as errors:
            started = await start_replica(environment(tmp_path, upstream.base_url, RLM_METRICS_PORT="0"), log=errors)
        try:
            lines = (await anyio.Path(log).read_bytes()).splitlines()
            served = next(line for line in lines if b"metrics_served" in line)
            found = re.search(rb"http://127\.0\.0\.1:\d+", served)
            assert found is not None
            async with client_of(started.address, "nobody") as api, client_of(found[0].decode(), "nobody") as metrics:
                assert (await api.get("/metrics")).status_code == 404
                text = (await metrics.get("/metrics")).text
            assert 'rlm_http_requests_total{method="GET",route="none",status="404"} 1' in text
        finally:
            await end(started.process)
