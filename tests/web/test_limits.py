"""Each limit of a tenant or key, flipped: what is refused over HTTP with it, and that it is not without."""

import httpx
import pytest

from service.ids import TenantId
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
