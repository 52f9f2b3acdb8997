"""Runs over HTTP."""

from pathlib import Path

import pytest

from tests.web.serving import served

pytestmark = pytest.mark.anyio


async def test_a_run_is_submitted_and_shown_until_it_is_finished(tmp_path: Path) -> None:
    """202 with the place of the run; there it is shown as running, then as finished, with a small answer in it."""
    async with served(tmp_path) as it:
        reply = await it.client.post("/v1/runs", json=await it.submission())
        assert reply.status_code == 202, reply.text
        shown = reply.json()
        while shown["status"] == "running":
            shown = (await it.client.get(reply.headers["location"])).json()
        assert shown["stop_reason"] == "answered"
        assert shown["answer"]["text"] == "4"
