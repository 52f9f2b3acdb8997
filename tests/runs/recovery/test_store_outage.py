"""A serving replica whose store goes away leaves its runs as they are, and goes on with them when it is back."""

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from service.ids import EMBEDDED_TENANT
from service.loop.events import CallFinished, RunFinished, RunTakenOver
from service.loop.values import CallOutcome, StopReason
from service.models.port import ModelReply, ModelRequest
from service.settings import read_settings
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.wiring.service import open_service
from tests.models.protocol_server import serving
from tests.runs.doubles import echo
from tests.runs.playing import PlayedModel, Stage, repl
from tests.store_server import store_server

pytestmark = pytest.mark.anyio


def turn(request: ModelRequest) -> str:
    turns = (repl("said = llm_query('first')"), repl("FINAL(said + llm_query('second'))"))
    return turns[min(sum(message.role == "assistant" for message in request.messages), 1)]


async def test_a_run_outlives_an_outage_of_its_store(tmp_path: Path) -> None:
    """Killed while a call is in flight: no last word and no further call while it is gone; then the same replica goes
    on, and the lost call alone is booked as uncertain."""
    held: list[anyio.abc.Process] = []

    async def kill_the_store(request: ModelRequest) -> ModelReply:
        if len(model.sub_requests) == 2:
            os.kill(held[0].pid, signal.SIGKILL)
            await held[0].wait()
        return await echo(request)

    model = PlayedModel(turns=(turn,), sub=kill_the_store)
    async with serving(model=model) as upstream, AsyncExitStack() as servers:
        settings = read_settings(
            {
                "RLM_DATA_DIR": str(tmp_path / "data"),
                "OPENAI_BASE_URL": upstream.base_url,
                "HOME": str(tmp_path),
                "RLM_REDIS_URL": f"unix://{tmp_path / 's'}",
                "RLM_LEASE_S": "600",  # it runs out when the test says so
            }
        )
        held.append(await servers.enter_async_context(store_server(tmp_path)))
        async with open_service(settings, serves=True) as service:
            on = Stage(service=service, server=upstream, model=model, directory=tmp_path)
            run_id = await service.runs.submit(await on.request("x"))
            service.runs.start(run_id)
            with pytest.raises(StoreFailed):
                async for _ in service.runs.follow(run_id):
                    pass
            with anyio.fail_after(60):
                while service.runs.live:
                    await anyio.lowlevel.checkpoint()
            assert (len(model.root_requests), len(model.sub_requests)) == (2, 2)
            await anyio.Path(tmp_path / "s").unlink(missing_ok=True)
            await servers.enter_async_context(store_server(tmp_path))
            await service.store.write("ZADD", Keys(EMBEDDED_TENANT)("runs", "unfinished"), "XX", 0, run_id)
            with anyio.fail_after(60):
                events = [entry.event async for entry in service.runs.follow(run_id)]
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        assert finished.stop_reason is StopReason.ANSWERED
        assert [event.uncertain_calls for event in events if isinstance(event, RunTakenOver)] == [1]
        calls = [event for event in events if isinstance(event, CallFinished)]
        assert [call.outcome for call in calls].count(CallOutcome.CANCELLED) == 1
        assert len(calls) == len(model.root_requests) + len(model.sub_requests)
        assert finished.spent == sum(call.cost for call in calls)
