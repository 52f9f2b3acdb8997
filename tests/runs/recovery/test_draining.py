"""A real `serve` process that is told over the API to end."""

from pathlib import Path

import anyio
import pytest

from tests.models.protocol_server import serving
from tests.runs.playing import PlayedModel
from tests.serve_process import PATIENCE_S, client_of, replica
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
