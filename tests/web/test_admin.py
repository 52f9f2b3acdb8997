"""The operator's own over HTTP."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from service.ids import TenantId
from service.tenants.values import OPERATOR, Scope
from tests.runs.playing import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(it: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with it.client_with(await it.secret(Scope.ADMIN)) as client:
        yield client


async def test_only_the_operator_gets_in(it: Served) -> None:
    """A key with every other scope is refused, and told which one it lacks."""
    for path in ("/v1/admin/tenants", "/v1/admin/audit", "/v1/admin/models"):
        reply = await it.client.get(path)
        assert (reply.status_code, reply.json()["data"]["scope"]) == (403, "admin")
    assert (await it.client.post("/v1/admin/drain")).status_code == 403


async def test_a_tenant_is_made_limited_suspended_and_resumed(it: Served, admin: httpx.AsyncClient) -> None:
    """Its key works, stops working while it is suspended, and works again; its limits show in its budget."""
    reply = await admin.post("/v1/admin/tenants", json={"name": "Claims", "limits": {"usd_per_day": "2.00"}})
    assert reply.status_code == 201, reply.text
    path = reply.headers["location"]
    assert (await admin.get(path)).json() == reply.json()
    issued = await admin.post(f"{path}/keys", json={"name": "first", "scopes": ["runs", "keys"]})
    assert issued.status_code == 201
    changed = (await admin.patch(path, json={"limits": {"usd_per_month": "9.00"}})).json()["limits"]
    assert (changed["usd_per_day"], changed["usd_per_month"]) == ("2.00", "9.00")
    budgets = (await admin.get(f"{path}/budget")).json()["budgets"]
    assert [(each["period"], each["limit"]["usd"], each["spent"]["usd"]) for each in budgets] == [
        ("day", "2.00", "0.00"),
        ("month", "9.00", "0.00"),
    ]
    async with it.client_with(issued.json()["secret"]) as client:
        assert (await client.get("/v1/key")).status_code == 200
    assert (await admin.post(f"{path}/suspend")).json()["state"] == "suspended"
    second = (await admin.post(f"{path}/keys", json={"name": "second", "scopes": ["runs"]})).json()
    async with it.client_with(second["secret"]) as client:
        assert (await client.get("/v1/key")).json()["code"] == "tenant_suspended"
        assert (await admin.post(f"{path}/resume")).json()["state"] == "active"
    listed = (await admin.get(f"{path}/keys")).json()["keys"]
    assert [key["name"] for key in listed] == ["first", "second"]
    assert (await admin.get(f"/v1/keys/{listed[0]['key_id']}")).json() == listed[0]


async def test_tenants_are_listed_in_pages(admin: httpx.AsyncClient) -> None:
    """The oldest first, the tenant `default` among them, each once."""
    made = [(await admin.post("/v1/admin/tenants", json={"name": name})).json()["tenant_id"] for name in "abc"]
    found: list[str] = []
    query: dict[str, str] | None = {"limit": "1"}
    while query is not None:
        page = (await admin.get("/v1/admin/tenants", params=query)).json()
        found += [tenant["tenant_id"] for tenant in page["tenants"]]
        query = None if page["next_cursor"] is None else {"limit": "1", "cursor": page["next_cursor"]}
    assert len(found) == len(set(found))
    assert "default" in found
    assert found[-3:] == made


async def test_what_was_done_to_tenants_stands_in_both_audit_logs(admin: httpx.AsyncClient) -> None:
    """The tenant's own chain and the operator's tell the same, with the admin key and the request; both are whole."""
    me = (await admin.get("/v1/key")).json()["key"]["key_id"]
    path = (await admin.post("/v1/admin/tenants", json={"name": "n"})).headers["location"]
    await admin.post(f"{path}/suspend", headers={"x-request-id": "why-1"})
    own = (await admin.get(f"{path}/audit")).json()["records"]
    assert [(record["action"], record["by"]) for record in own] == [("tenant.created", me), ("tenant.suspended", me)]
    last = (await admin.get("/v1/admin/audit/verdict")).json()["records"]
    operators = (await admin.get("/v1/admin/audit", params={"after": last - 2})).json()["records"]
    assert [(record["action"], record["request_id"]) for record in operators][-1] == ("tenant.suspended", "why-1")
    assert (await admin.get(f"{path}/audit/verdict")).json()["is_whole"]


async def test_a_models_price_is_shown_before_it_is_used(admin: httpx.AsyncClient) -> None:
    """What a name leads to, with whole prices; one that leads nowhere or has no price says so."""
    shown = (await admin.get(f"/v1/admin/models/{ROOT}")).json()
    assert (shown["name"], shown["upstream_model"]) == (ROOT, ROOT.removeprefix("openai/"))
    assert shown["rates"]["output"] > shown["rates"]["input"] > 0
    assert (await admin.get("/v1/admin/models/nowhere/at-all")).json()["code"] == "unknown_model"
    assert (await admin.get("/v1/admin/models")).json() == {"models": []}


async def test_a_tenants_use_is_reported_to_the_operator(it: Served, admin: httpx.AsyncClient) -> None:
    """The same report as the tenant's own; of a tenant that is not there, 404."""
    path = (await admin.post("/v1/admin/tenants", json={"name": "n"})).headers["location"]
    secret = (await admin.post(f"{path}/keys", json={"name": "k", "scopes": ["usage"]})).json()["secret"]
    async with it.client_with(secret) as client:
        assert (await client.get("/v1/usage")).json() == (await admin.get(f"{path}/usage")).json()
    for what in ("", "/usage", "/audit", "/audit/verdict", "/keys", "/budget"):
        reply = await admin.get(f"/v1/admin/tenants/ten_{'0' * 32}{what}")
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


async def test_a_replica_is_told_to_end(it: Served, admin: httpx.AsyncClient) -> None:
    """Whoever owns the process is told once, and the operator's log says by whom."""
    me = (await admin.get("/v1/key")).json()["key"]["key_id"]
    first, second = [(await admin.post("/v1/admin/drain")) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert it.rooms.drain.was_asked
    last = (await admin.get("/v1/admin/audit/verdict")).json()["records"]
    records = (await admin.get("/v1/admin/audit", params={"after": last - 2})).json()["records"]
    drained = [record for record in records if record["action"] == "replica.drained"]
    assert [(record["by"], record["target"]) for record in drained] == [(me, first.json()["replica"])]


async def test_a_tenant_is_erased_over_the_api(it: Served, admin: httpx.AsyncClient) -> None:
    """Its keys are refused at once; it is told how far that is, and what was kept; asking again changes nothing."""
    path = (await admin.post("/v1/admin/tenants", json={"name": "to go"})).headers["location"]
    secret = (await admin.post(f"{path}/keys", json={"name": "k", "scopes": ["contexts"]})).json()["secret"]
    assert (await admin.get(f"{path}/erasure")).status_code == 404
    async with it.client_with(secret) as client:
        assert (await client.post("/v1/contexts", json={"text": "secret"})).status_code == 201
        begun = await admin.post(f"{path}/erasure")
        assert (begun.status_code, begun.json()["status"]) == (202, "erasing")
        with anyio.fail_after(60):
            while (await client.get("/v1/contexts")).status_code not in (401, 403):
                pass  # keys are remembered for a moment
    assert (await admin.get(path)).json()["state"] == "erasing"
    assert (await admin.post(f"{path}/erasure")).json() == begun.json()
    await it.rooms.erasure.finish(TenantId(begun.json()["tenant_id"]), by=OPERATOR)
    ended = await admin.get(begun.headers["location"])
    assert (ended.json()["status"], ended.json()["runs"], ended.json()["spent_by_month"]) == ("erased", 0, {})
    again = await admin.post(f"{path}/erasure")
    assert (again.status_code, again.json()) == (200, ended.json())
    assert (await admin.get(path)).status_code == 404
    assert (await admin.post("/v1/admin/tenants/default/erasure")).status_code == 400
    last = (await admin.get("/v1/admin/audit/verdict")).json()["records"]
    records = (await admin.get("/v1/admin/audit", params={"after": last - 2})).json()["records"]
    assert [record["action"] for record in records] == ["tenant.erasure_began", "tenant.erased"]
    assert records[0]["by"] == (await admin.get("/v1/key")).json()["key"]["key_id"]
