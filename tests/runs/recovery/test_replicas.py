"""Two real `serve` processes over one store: what a client who follows a run sees when one of them goes."""

import signal
from pathlib import Path

import anyio
import httpx
import pytest

from service.models.port import ModelReply, ModelRequest
from tests.models.protocol_server import serving
from tests.runs.doubles import echo
from tests.runs.playing import ROOT, SUB, PlayedModel, repl
from tests.serve_process import PATIENCE_S, client_of, replica
from tests.store_server import store_server

pytestmark = [pytest.mark.anyio, pytest.mark.takes_long]


def turn(request: ModelRequest) -> str:
    turns = (repl("said = llm_query('first')"), repl("FINAL(said + llm_query(' second'))"))
    return turns[min(sum(message.role == "assistant" for message in request.messages), 1)]


async def follow(client: httpx.AsyncClient, run_id: str, seen: list[tuple[int, str]]) -> None:
    """Take in the events behind those that were seen, until the stream ends or breaks."""
    headers = {"accept": "text/event-stream", "last-event-id": str(seen[-1][0] if seen else 0)}
    seq = 0
    try:
        async with client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seq = int(value)
                elif name == "event" and seq:
                    seen.append((seq, value))
    except httpx.TransportError:
        return  # the replica is gone


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_follower_goes_on_at_the_other_replica(tmp_path: Path, how: signal.Signals) -> None:
    """Killed with a call in flight, or told to end: the client comes back with `Last-Event-ID` elsewhere, and sees
    every event once, up to the end of an answered run."""
    is_gone, is_time = anyio.Event(), anyio.Event()

    async def answers_once_it_is_gone(request: ModelRequest) -> ModelReply:
        if len(model.sub_requests) == (2 if how is signal.SIGKILL else 1):
            is_time.set()
            if how is signal.SIGKILL:
                await is_gone.wait()
        return await echo(request)

    model = PlayedModel(turns=(turn,), sub=answers_once_it_is_gone)
    async with (
        serving(model=model) as upstream,
        store_server(tmp_path),
        replica(tmp_path, upstream.base_url) as first,
        replica(tmp_path, upstream.base_url) as second,
    ):
        assert first.admin_key is not None
        seen: list[tuple[int, str]] = []
        async with (
            client_of(first.address, first.admin_key) as one,
            client_of(second.address, first.admin_key) as other,
        ):
            context = (await one.post("/v1/contexts", json={"text": "four"})).json()["context_id"]
            body = {"question": "?", "contexts": [{"context_id": context}], "root_model": ROOT, "sub_model": SUB}
            submitted = await one.post("/v1/runs", json=body)
            assert submitted.status_code == 202, submitted.text
            run_id = submitted.json()["run_id"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, one, run_id, seen)
                with anyio.fail_after(PATIENCE_S):
                    await is_time.wait()
                first.process.send_signal(how)
                with anyio.fail_after(PATIENCE_S):
                    await first.process.wait()
                is_gone.set()
            with anyio.fail_after(PATIENCE_S):
                while not seen or seen[-1][1] != "RunFinished":
                    await follow(other, run_id, seen)
            view = (await other.get(f"/v1/runs/{run_id}")).json()
        assert view["stop_reason"] == "answered"
        assert [seq for seq, _ in seen] == list(range(1, len(seen) + 1))
        assert len(model.sub_requests) <= (3 if how is signal.SIGKILL else 2)
