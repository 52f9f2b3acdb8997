"""Places of requests: what one tenant holds leaves room for every other."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ids import TenantId
from service.models.port import ModelReply, ModelRequest
from service.tenants.errors import ConcurrencyLimited
from service.tenants.values import OPERATOR, Scope
from service.web.request_places import RequestPlaces
from tests.runs.doubles import echo
from tests.runs.playing import repl
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

PATIENCE_S = 60


@given(most=st.integers(1, 12), asked=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60))
def test_whoever_has_none_gets_a_place_while_there_is_any(most: int, asked: list[tuple[int, bool]]) -> None:
    """However tenants come and go: never more than all places, nobody above what was left to the others when they came,
    and a newcomer is refused only where everything is taken."""
    places = RequestPlaces(most)
    held: dict[int, list[ExitStack]] = {}
    for who, comes in asked:
        tenant, mine = TenantId(f"ten_{who}"), held.setdefault(who, [])
        free = most - sum(map(len, held.values()))
        if not comes:
            if mine:
                mine.pop().close()
        elif len(mine) < free:
            stack = ExitStack()
            stack.enter_context(places.place(tenant))
            mine.append(stack)
        else:
            with pytest.raises(ConcurrencyLimited), places.place(tenant):
                pass
            assert mine or not free
        counts = [len(stacks) for stacks in held.values() if stacks]
        assert repr(places) == f"<RequestPlaces {sum(counts)} of {most} taken by {len(counts)} tenants>"


async def begun_upload(it: Served, secret: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose body does not come to its end."""
    host, port = it.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/contexts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-type: text/plain\r\n"
    writer.write(head.encode() + b"content-length: 10\r\n\r\nx")
    return reader, writer


def taken(it: Served) -> int:
    """How many places have somebody, of whatever tenant."""
    return int(repr(it.rooms.places).split()[1])


async def until_taken(it: Served, count: int) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            if taken(it) == count:
                return
            await anyio.sleep(0.01)


async def test_a_tenant_whose_requests_last_leaves_half_of_all_places(tmp_path: Path) -> None:
    """What it sends besides is refused with 429 and when to come back, and gives its connection up; another tenant is
    answered meanwhile, and so is the first once one of its requests has ended, however it ended."""
    async with served(tmp_path, settings={"RLM_MAX_CONNECTIONS": "8"}) as it, AsyncExitStack() as stack:
        secret = await it.secret(Scope.CONTEXTS)
        slow = [await begun_upload(it, secret) for _ in range(4)]
        for _, writer in slow:
            stack.callback(writer.close)
        await until_taken(it, 4)
        reader, writer = await begun_upload(it, secret)
        with anyio.fail_after(PATIENCE_S):
            refusal = await reader.read()
        writer.close()
        assert refusal.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nretry-after: 5\r\n" in refusal
        assert b'"code":"concurrency_limited"' in refusal
        other = await it.tenants.create("other", by=OPERATOR)
        async with it.client_with(await it.secret(tenant_id=other.id)) as client:
            assert (await client.get("/v1/contexts")).status_code == 200
        slow[0][1].close()  # goes away in the middle
        slow[1][1].write(b"123456789")  # ends in good order
        with anyio.fail_after(PATIENCE_S):
            assert (await slow[1][0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
        await until_taken(it, 2)
        async with it.client_with(secret) as client:
            assert (await client.get("/v1/contexts")).status_code == 200
        await until_taken(it, 2)


async def test_a_stream_holds_its_place_until_it_ends(tmp_path: Path) -> None:
    """It is the response that takes long, not the function that begins it."""
    may_end = anyio.Event()

    async def wait(request: ModelRequest) -> ModelReply:
        await may_end.wait()
        return await echo(request)

    async with served(tmp_path, repl("FINAL(llm_query('?'))"), sub=wait) as it:
        run = (await it.client.post("/v1/runs", json=await it.submission())).json()["run_id"]
        await until_taken(it, 0)
        headers = {"accept": "text/event-stream"}
        async with it.client.stream("GET", f"/v1/runs/{run}/events", headers=headers) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines)
            assert taken(it) == 1
            may_end.set()
            assert "event: RunFinished" in [line async for line in lines]
        await until_taken(it, 0)
