"""A real `serve` process collects blobs, and tells of it."""

import os
from pathlib import Path

import anyio
import pytest

from tests.models.protocol_server import serving
from tests.runs.playing import PlayedModel
from tests.serve_process import PATIENCE_S, client_of, end, environment, start_replica
from tests.store_server import store_server

pytestmark = [pytest.mark.anyio, pytest.mark.takes_long]

LONG_AGO = 1_000_000.0


def payloads(directory: Path) -> list[Path]:
    return sorted((directory / "data" / "blobs" / "sha256").glob("*/*"))


async def test_what_was_deleted_leaves_the_disk(tmp_path: Path) -> None:
    """The text of a deleted context goes, that of another stays."""
    variables = {"RLM_COLLECT_BLOBS_S": "1"}
    async with serving(model=PlayedModel(turns=("",))) as upstream, store_server(tmp_path):
        started = await start_replica(environment(tmp_path, upstream.base_url, **variables))
        try:
            assert started.admin_key is not None
            async with client_of(started.address, started.admin_key) as client:
                stored = []
                for name in ("kept", "deleted"):
                    response = await client.post("/v1/contexts", params={"name": name}, content=name)
                    stored.append(response.raise_for_status().json()["context_id"])
                (await client.delete(f"/v1/contexts/{stored[1]}")).raise_for_status()
                for path in payloads(tmp_path):
                    os.utime(path, (LONG_AGO, LONG_AGO))
                with anyio.fail_after(PATIENCE_S):
                    while len(payloads(tmp_path)) > 1:  # noqa: ASYNC110 -- the disk is asked, nobody tells
                        await anyio.sleep(0.05)
                content = await client.get(f"/v1/contexts/{stored[0]}/content")
                assert content.raise_for_status().text == "kept"
        finally:
            await end(started.process)
