"""Each limit of a tenant or key, flipped: what is refused over HTTP with it, and that it is not without."""

import time

import httpx
import pytest

from service.ids import TenantId
from service.runs.holdings.expiring import expire
from service.tenants.values import OPERATOR, CallerLimits
from tests.web.serving import Served

pytestmark = pytest.mark.anyio


async def client_of(it: Served, limits: CallerLimits) -> httpx.AsyncClient:
    """With a key of a new tenant that has these limits; the key has none of its own."""
    tenant = await it.tenants.create("limited", by=OPERATOR, limits=limits)
    return it.client_with(await it.secret(tenant_id=TenantId(tenant.id)))


async def test_requests_by_the_minute_hold_and_say_when_to_come_back(it: Served) -> None:
    """The third of two is refused with 429 and the seconds until it fits; every response says what is left."""
    async with await client_of(it, CallerLimits(requests_per_minute=2)) as client:
        replies = [await client.get("/v1/runs") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
        assert {reply.headers["ratelimit-policy"] for reply in replies} == {'"requests";q=2;w=60'}
        refused = replies[-1]
        assert refused.json()["code"] == "rate_limited"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')


async def test_a_refused_request_is_refused_before_its_body_is_read(it: Served) -> None:
    """Who is over the limit cannot make the service read: the connection is closed with the refusal."""
    async with await client_of(it, CallerLimits(requests_per_minute=0)) as client:
        reply = await client.post("/v1/contexts", content=b'{"text": "' + b"x" * 100_000 + b'"}')
        assert (reply.status_code, reply.headers["connection"]) == (429, "close")


async def test_without_limits_no_response_speaks_of_any(it: Served) -> None:
    """A tenant that nothing limits is not told of buckets."""
    async with await client_of(it, CallerLimits()) as client:
        reply = await client.get("/v1/runs")
        assert reply.status_code == 200
        assert not [name for name in reply.headers if "ratelimit" in name]


async def test_tokens_show_beside_requests(it: Served) -> None:
    """Where tokens are limited, every response tells how many are left."""
    async with await client_of(it, CallerLimits(tokens_per_minute=5_000)) as client:
        reply = await client.get("/v1/runs")
        assert reply.headers["x-ratelimit-remaining-tokens"] == "5000"


async def test_what_was_read_out_of_a_session_last_counts_until_it_is_closed(it: Served) -> None:
    """In place of what was read out before, so that reading goes on; more than fits is refused."""
    async with await client_of(it, CallerLimits(storage_bytes=1_000)) as client:
        session = (await client.post("/v1/sessions", json={})).headers["location"]

        async def read(letter: str, length: int) -> int:
            await client.post(f"{session}/cells", json={"code": f"x = {letter!r} * {length}"})
            return (await client.get(f"{session}/variables/x", params={"as": "text"})).status_code

        assert [await read("a", 600), await read("b", 700), await read("c", 600)] == [200, 200, 200]
        assert await read("d", 1_100) == 429
        assert await read("e", 900) == 200
        assert (await client.post("/v1/contexts", json={"text": "f" * 500})).status_code == 429
        assert (await client.delete(session)).status_code == 204
        assert (await client.post("/v1/contexts", json={"text": "f" * 500})).status_code == 201


async def test_what_a_conversation_brings_along_counts_until_it_expires(it: Served) -> None:
    """One by one against `open_contexts`; a day later there is room again for what the client brings then."""
    tenant = await it.tenants.create("chatting", by=OPERATOR, limits=CallerLimits(open_contexts=2))
    rooms = it.rooms.tenancy.runs_of(tenant.id).rooms
    async with it.client_with(await it.secret(tenant_id=tenant.id)) as client:

        async def ask(text: str) -> int:
            body = {"model": "rlm/default", "messages": [{"role": "user", "content": text}]}
            return (await client.post("/v1/chat/completions", json=body)).status_code

        assert [await ask("first"), await ask("second"), await ask("second"), await ask("third")] == [
            200,
            200,
            200,
            429,
        ]
        assert await expire(rooms, now=time.time() + 86_500, kept_s=86_400) == 2
        assert [await ask("third"), await ask("fourth")] == [200, 200]
