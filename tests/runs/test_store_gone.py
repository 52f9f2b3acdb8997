"""The store goes away in the middle of a run: no call is made without it, and nothing that was written is lost."""

import os
import signal
from pathlib import Path

import anyio
import anyio.abc
import pytest

from service.models.port import ModelReply, ModelRequest
from service.runs.calls.purse import run_account
from service.store.errors import StoreFailed
from tests.runs.doubles import usage_of
from tests.runs.playing import repl, stage
from tests.store_server import store_server

pytestmark = pytest.mark.anyio


async def test_a_run_without_its_store_stops_and_keeps_what_was_written(tmp_path: Path) -> None:
    """Followers get `StoreFailed`, no further call is made, and a store that comes back has the journal so far."""
    settings = {"RLM_REDIS_URL": f"unix://{tmp_path / 's'}"}
    held: list[anyio.abc.Process] = []

    async def kill_the_store(request: ModelRequest) -> ModelReply:
        os.kill(held[0].pid, signal.SIGKILL)
        await held[0].wait()
        return ModelReply(text="too late", usage=usage_of(request, "too late"))

    turns = (repl("x = 1\nprint(x)"), repl("llm_query('now')"), repl("FINAL('never')"))
    async with store_server(tmp_path) as process:
        held.append(process)
        async with stage(tmp_path, *turns, sub=kill_the_store, settings=settings) as on:
            run_id = await on.service.runs.submit(await on.request("x"))
            on.service.runs.start(run_id)
            with pytest.raises(StoreFailed):
                async for _ in on.service.runs.follow(run_id):
                    pass
            assert len(on.model.root_requests) == 2
            assert len(on.model.sub_requests) == 1
    await anyio.Path(tmp_path / "s").unlink(missing_ok=True)
    async with store_server(tmp_path), stage(tmp_path, "x", settings=settings) as on:
        view = await on.service.runs.show(run_id)
        assert (view.turns, view.cells, view.stop_reason) == (2, 1, None)
        # The sub-call was reserved and never journalled: its hold is still there, to be settled as uncertain.
        (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
        assert balance.held > 0
