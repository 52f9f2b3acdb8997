"""How `serve` ends: in good order, within its bound, and at once for who asks twice."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from service.models.port import ModelReply, ModelRequest
from tests.models.protocol_server import serving
from tests.runs.doubles import echo
from tests.runs.playing import ROOT, SUB, PlayedModel, repl
from tests.serve_process import PATIENCE_S
from tests.web.alone import Alone, serve_alone

pytestmark = [pytest.mark.anyio, pytest.mark.takes_long]


async def follow(client: httpx.AsyncClient, run_id: str, seen: list[tuple[int, str]]) -> None:
    """Take in the events behind those that were seen, until the stream ends in good order."""
    headers = {"accept": "text/event-stream", "last-event-id": str(seen[-1][0] if seen else 0)}
    async with client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as reply:
        assert reply.status_code == 200
        seq = 0
        async for line in reply.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                seq = int(value)
            elif name == "event" and seq:
                seen.append((seq, value))


async def test_a_run_and_who_follows_it_outlive_a_restart(tmp_path: Path) -> None:
    """SIGTERM ends the stream between two events and the process with 0; the next start goes on with the run, and the
    follower with its last id sees every event once."""
    is_time, may_answer = anyio.Event(), anyio.Event()

    async def answers_when_it_may(request: ModelRequest) -> ModelReply:
        is_time.set()
        await may_answer.wait()
        return await echo(request)

    model = PlayedModel(turns=(repl("FINAL(llm_query('now'))"),), sub=answers_when_it_may)
    seen: list[tuple[int, str]] = []
    async with serving(model=model) as upstream:
        settings = {"OPENAI_BASE_URL": upstream.base_url, "RLM_LEASE_S": "2"}
        async with serve_alone(tmp_path, **settings) as first, first.client() as client:
            key = first.replica.admin_key
            assert (tmp_path / "data" / "admin-key").stat().st_mode & 0o777 == 0o600
            context = (await client.post("/v1/contexts", json={"text": "four"})).json()["context_id"]
            body = {"question": "?", "contexts": [{"context_id": context}], "root_model": ROOT, "sub_model": SUB}
            run_id = (await client.post("/v1/runs", json=body)).json()["run_id"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, client, run_id, seen)
                with anyio.fail_after(PATIENCE_S):
                    await is_time.wait()
                first.send_signal(signal.SIGTERM)
            may_answer.set()  # the stream has ended; a call in flight is waited for
            assert await first.ends() == 0
            assert [each["event"] for each in first.log()][-2:] == ["run_handed_over", "ended"]
        assert seen[-1][1] != "RunFinished"
        async with serve_alone(tmp_path, **settings) as second, second.client(key) as client:
            assert second.replica.admin_key is None
            with anyio.fail_after(PATIENCE_S):
                while seen[-1][1] != "RunFinished":
                    await follow(client, run_id, seen)
            view = (await client.get(f"/v1/runs/{run_id}")).json()
            assert (view["stop_reason"], view["answer"]["source"]) == ("answered", "submitted")
            second.send_signal(signal.SIGINT)
            assert await second.ends() == 0
    assert [seq for seq, _ in seen] == list(range(1, len(seen) + 1))


async def upload_for_ever(serve: Alone, has_begun: anyio.Event) -> None:
    """A request that never ends by itself, until the service breaks it off."""

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            has_begun.set()
            await anyio.sleep(0.02)

    async with serve.client() as client:
        try:
            await client.post("/v1/contexts", content=pieces(), headers={"content-type": "text/plain"})
        except httpx.TransportError:
            return  # broken off


@pytest.mark.parametrize(("drain_s", "signals"), [("1", 1), ("3600", 2)])
async def test_requests_that_do_not_end_are_broken_off(tmp_path: Path, drain_s: str, signals: int) -> None:
    """After `RLM_DRAIN_S`, or at the second signal, nobody is waited for any more; the process ends in good order."""
    async with serve_alone(tmp_path, RLM_DRAIN_S=drain_s) as serve, anyio.create_task_group() as tasks:
        has_begun = anyio.Event()
        tasks.start_soon(upload_for_ever, serve, has_begun)
        with anyio.fail_after(PATIENCE_S):
            await has_begun.wait()
            serve.send_signal(signal.SIGTERM)
            async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
                while await is_listening(client, serve.replica.address):
                    pass  # until the signal has been heard: two at once may be one
            for _ in range(signals - 1):
                serve.send_signal(signal.SIGTERM)
        assert await serve.ends() == 0
        assert {each["level"] for each in serve.log()} == {"info"}


@pytest.mark.parametrize("has_patience", [True, False])
async def test_balancers_have_time_to_see_that_it_ends(tmp_path: Path, has_patience: bool) -> None:
    """Within `RLM_DRAIN_NOTICE_S` it is not ready, and answers all the same; a second signal cuts that short."""
    notice_s = "2" if has_patience else "300"
    async with serve_alone(tmp_path, RLM_DRAIN_NOTICE_S=notice_s) as serve, serve.client() as client:
        serve.send_signal(signal.SIGTERM)
        with anyio.fail_after(PATIENCE_S):
            while (told := await client.get("/readyz")).status_code == 200:
                pass
        assert told.json()["reason"] == "it is draining"
        if not has_patience:
            assert (await client.post("/v1/contexts", json={"text": "four"})).status_code == 201
            serve.send_signal(signal.SIGTERM)
        assert await serve.ends() == 0


async def is_listening(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"{address}/livez", headers={"connection": "close"})).status_code == 200
    except httpx.TransportError:
        return False
