"""Two real `serve` processes over one store: what a client who follows a run sees when one of them goes."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from service.models.port import ModelReply, ModelRequest
from tests.models.protocol_server import serving
from tests.runs.doubles import echo
from tests.runs.playing import ROOT, SUB, PlayedModel, repl
from tests.runs.test_store_gone import server

pytestmark = [pytest.mark.anyio, pytest.mark.takes_long]

PATIENCE_S = 90


def turn(request: ModelRequest) -> str:
    turns = (repl("said = llm_query('first')"), repl("FINAL(said + llm_query(' second'))"))
    return turns[min(sum(message.role == "assistant" for message in request.messages), 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    process: anyio.abc.Process
    address: str
    admin_key: str | None
    """Of the first start ever."""


@asynccontextmanager
async def replica(directory: Path, upstream: str) -> AsyncIterator[Replica]:
    """A `serve` process that listens; it is gone afterwards."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "RLM_DATA_DIR": str(directory / "data"),
        "RLM_REDIS_URL": f"unix://{directory / 's'}",
        "RLM_PORT": "0",
        "RLM_LEASE_S": "2",
        "RLM_WARM_SANDBOXES": "0",
        "OPENAI_BASE_URL": upstream,
    }
    command = [str(Path(sys.executable).with_name("rlm-service")), "serve"]
    async with await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None, env=environment) as process:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        key = None
        try:
            with anyio.fail_after(PATIENCE_S):
                while not (line := (await lines.receive_until(b"\n", 4096)).decode()).startswith("rlm-service"):
                    if "admin key is" in line:
                        key = line.split("admin key is ")[1].split()[0]
            yield Replica(process=process, address=line.split()[-1], admin_key=key)
        finally:
            if process.returncode is None:
                process.kill()


def client_of(replica: Replica, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=replica.address, headers=headers, timeout=PATIENCE_S, trust_env=False)


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
        server(tmp_path),
        replica(tmp_path, upstream.base_url) as first,
        replica(tmp_path, upstream.base_url) as second,
    ):
        assert first.admin_key is not None
        seen: list[tuple[int, str]] = []
        async with client_of(first, first.admin_key) as one, client_of(second, first.admin_key) as other:
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
