"""A tenant's own account over HTTP: keys, provider keys, what was spent, the audit log."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from service.ids import TenantId
from service.ledger.periods import day_of
from service.tenants.values import OPERATOR, CallerLimits, Scope
from tests.runs.playing import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

KEYS = (Scope.KEYS, Scope.RUNS, Scope.CONTEXTS, Scope.USAGE)


@asynccontextmanager
async def tenant_of_its_own(it: Served, limits: CallerLimits | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key of a fresh tenant."""
    tenant = await it.tenants.create("ours", by=OPERATOR)
    async with it.client_with(await it.secret(*KEYS, tenant_id=tenant.id, limits=limits)) as client:
        yield client


async def made(client: httpx.AsyncClient, **given: Any) -> dict[str, Any]:
    reply = await client.post("/v1/keys", json={"name": "child", "scopes": ["runs"]} | given)
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()
    shown = (await client.get(reply.headers["location"])).json()
    assert shown == {name: value for name, value in found.items() if name != "secret"}
    return found


async def test_a_key_makes_keys_that_can_do_less(it: Served) -> None:
    """What is left out is inherited, what would be more is refused, and the new key sees nothing but itself."""
    async with tenant_of_its_own(it, CallerLimits(nano_usd_per_day=5_000_000_000)) as client:
        own = (await client.get("/v1/key")).json()["key"]
        child = await made(client, scopes=["keys"], models=["openai/*"], limits={"parallel_runs": 2})
        assert (child["made_by"], child["state"]) == (own["key_id"], "active")
        assert (child["limits"]["usd_per_day"], child["limits"]["parallel_runs"]) == ("5.00", 2)
        for more in ({"scopes": ["admin"]}, {"limits": {"usd_per_day": "5.01"}}):
            refused = await client.post("/v1/keys", json={"name": "n", "scopes": ["runs"]} | more)
            assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
        assert "the limit usd_per_day would be 5.01, and the key that sets it has 5.00" in refused.json()["detail"]
        async with it.client_with(child["secret"]) as other:
            assert [key["key_id"] for key in (await other.get("/v1/keys")).json()["keys"]] == [child["key_id"]]
            assert (await other.get(f"/v1/keys/{own['key_id']}")).status_code == 404
            assert (await other.patch(f"/v1/keys/{child['key_id']}", json={"name": "x"})).status_code == 403


async def test_a_key_is_changed_rotated_and_revoked(it: Served) -> None:
    """A limit that is null is lifted and others stay; after a rotation both secrets work, after a revocation none."""
    async with tenant_of_its_own(it) as client:
        child = await made(client, limits={"parallel_runs": 2, "usd_per_month": "1.50"})
        path = f"/v1/keys/{child['key_id']}"
        changed = (await client.patch(path, json={"name": "other", "limits": {"parallel_runs": None}})).json()
        assert (changed["name"], changed["limits"]["parallel_runs"], changed["limits"]["usd_per_month"]) == (
            *("other", None),
            "1.50",
        )
        rotated = (await client.post(f"{path}/rotate", json={"overlap_s": 3600})).json()
        for secret in (child["secret"], rotated["secret"]):
            async with it.client_with(secret) as other:
                assert (await other.get("/v1/key")).json()["key"]["key_id"] == child["key_id"]
        for _ in range(2):
            assert (await client.post(f"{path}/revoke")).json()["state"] == "revoked"
        async with it.client_with(rotated["secret"]) as other:
            assert (await other.get("/v1/key")).status_code == 401


async def test_a_key_is_rotated_and_a_session_opened_without_a_body(it: Served) -> None:
    """Where every field may be left out the body may be too; one that is there is still looked at."""
    async with it.client_with(await it.secret()) as client:
        child = await made(client)
        path = f"/v1/keys/{child['key_id']}/rotate"
        rotated = await client.post(path)
        assert rotated.status_code == 200, rotated.text
        async with it.client_with(child["secret"]) as other:
            assert (await other.get("/v1/key")).status_code == 401
        assert (await client.post("/v1/sessions")).status_code == 201
        assert (await client.post(path, content=b"{}")).status_code == 415
        assert (await client.post(path, json={"overlap_s": "soon"})).status_code == 422


async def test_the_end_of_a_key_is_in_unix_seconds(it: Served) -> None:
    """Milliseconds, and seconds from now, are refused with the unit."""
    for wrong in (3600, 1_771_416_000_0):
        refused = await it.client.post("/v1/keys", json={"name": "n", "scopes": ["runs"], "expires_at": wrong})
        assert refused.status_code == 400
        assert "Unix seconds" in refused.json()["detail"]
        assert refused.json()["error"]["param"] == "expires_at"


async def test_keys_are_listed_in_pages(it: Served) -> None:
    """The oldest first, each once; a cursor of another list is refused."""
    async with tenant_of_its_own(it) as client:
        ids = [(await client.get("/v1/key")).json()["key"]["key_id"], *[(await made(client))["key_id"] for _ in "ab"]]
        first = (await client.get("/v1/keys", params={"limit": 2})).json()
        rest = (await client.get("/v1/keys", params={"cursor": first["next_cursor"]})).json()
        assert [key["key_id"] for key in first["keys"] + rest["keys"]] == ids
        assert rest["next_cursor"] is None
        assert (await client.get("/v1/keys", params={"cursor": "x"})).json()["code"] == "bad_request"


async def test_the_standing_of_a_key_and_the_report_say_what_its_runs_cost(it: Served) -> None:
    """Spend of key and tenant, and the report's total, are what the run says that it spent; the rest is still left."""
    limits = CallerLimits(nano_usd_per_day=5_000_000_000, open_contexts=7)
    while True:
        began = day_of(it.rooms.now())
        async with tenant_of_its_own(it, limits) as client:
            run = await finished_run(it, client)
            standing = (await client.get("/v1/key")).json()
            report = (await client.get("/v1/usage", params={"group_by": "key,model"})).json()
            nothing = (await client.get("/v1/usage", params={"key_id": "key_" + "0" * 32})).json()
        if day_of(it.rooms.now()) == began:
            break  # else a new day's budget began in between: once more
    spent = run["spent"]["nano_usd"]
    assert {(budget["level"], budget["period"]) for budget in standing["budgets"]} == {
        (level, period) for level in ("tenant", "key") for period in ("day", "month")
    }
    assert {budget["spent"]["nano_usd"] for budget in standing["budgets"]} == {spent}
    limited = next(budget for budget in standing["budgets"] if budget["limit"] is not None)
    assert limited["left"]["nano_usd"] == 5_000_000_000 - spent
    assert limited["resets_at"] > run["finished_at"]
    counts = {(count["limit_name"], count["limit"], count["used"]) for count in standing["counts"]}
    assert counts == {("open_contexts", 7, 1)}
    assert report["total"]["cost"]["nano_usd"] == spent
    (line,) = report["lines"]
    assert line["group"] == {"key": standing["key"]["key_id"], "model": ROOT}
    assert (nothing["lines"], nothing["total"]["calls"]) == ([], 0)


async def finished_run(it: Served, client: httpx.AsyncClient) -> dict[str, Any]:
    body = await it.submission(contexts=[{"context_id": await it.stored(client=client)}])
    location = (await client.post("/v1/runs", json=body)).headers["location"]
    with anyio.fail_after(120):
        while True:
            run: dict[str, Any] = (await client.get(location, params={"wait": 30})).json()
            if run["status"] == "finished":
                return run


async def test_a_report_refuses_what_it_cannot_be_about(it: Served) -> None:
    """Unknown or doubled dimensions, an empty range, days outside of the calendar and foreign cursors."""
    async with tenant_of_its_own(it) as client:
        for query, status in (
            ({"group_by": "hour"}, 422),
            ({"group_by": "day,day"}, 400),
            ({"first": "2026-01-02", "last": "2026-01-01"}, 400),
            ({"last": "0001-01-01"}, 400),
            ({"cursor": "W10"}, 400),
        ):
            assert (await client.get("/v1/usage", params=query)).status_code == status, query


async def test_a_provider_key_is_left_and_never_shown(it: Served) -> None:
    """Only its last four characters come back; deleting it twice is 404; a name that is none is refused."""
    async with tenant_of_its_own(it) as client:
        key = "sk-test-0123456789abcdef"
        left = await client.put("/v1/provider-keys/openai", json={"key": key})
        assert (left.status_code, left.json()["last_four"]) == (200, "cdef")
        listed = await client.get("/v1/provider-keys")
        assert [each["provider"] for each in listed.json()["provider_keys"]] == ["openai"]
        assert key not in listed.text + left.text
        assert (await client.put("/v1/provider-keys/Open AI", json={"key": key})).status_code == 400
        mistyped = await client.put("/v1/provider-keys/opnai", json={"key": key})
        assert (mistyped.status_code, mistyped.json()["error"]["param"]) == (400, "provider")
        assert "no call would ever use" in mistyped.json()["detail"]
        for other in ("anthropic", "gemini"):
            assert (await client.put(f"/v1/provider-keys/{other}", json={"key": key})).status_code == 200
        assert (await client.delete("/v1/provider-keys/openai")).status_code == 204
        assert (await client.delete("/v1/provider-keys/openai")).status_code == 404


async def test_what_concerns_the_whole_tenant_is_not_handed_down(it: Served) -> None:
    """A key that another key made neither sees nor changes provider keys, and does not read the audit log."""
    async with tenant_of_its_own(it) as client:
        child = await made(client, scopes=["keys"])
        async with it.client_with(child["secret"]) as other:
            for reply in (
                await other.get("/v1/provider-keys"),
                await other.put("/v1/provider-keys/openai", json={"key": "sk-0123456789"}),
                await other.delete("/v1/provider-keys/openai"),
                await other.get("/v1/audit"),
                await other.get("/v1/audit/verdict"),
            ):
                assert (reply.status_code, reply.json()["code"]) == (403, "not_permitted")


async def test_each_change_stands_in_the_audit_log_with_its_request(it: Served) -> None:
    """Made, changed, rotated and revoked keys and provider keys, by whom and in which request; the chain is whole."""
    async with tenant_of_its_own(it) as client:
        own = (await client.get("/v1/key")).json()["key"]["key_id"]
        child = await made(client)
        path = f"/v1/keys/{child['key_id']}"
        named = {"x-request-id": "mine-1"}
        await client.patch(path, json={"name": "other"}, headers=named)
        await client.post(f"{path}/rotate", json={})
        await client.post(f"{path}/revoke")
        await client.put("/v1/provider-keys/openai", json={"key": "sk-0123456789"})
        await client.delete("/v1/provider-keys/openai")
        page = (await client.get("/v1/audit", params={"after": 2})).json()
        assert [record["action"] for record in page["records"]] == [
            *("key.created", "key.changed", "key.rotated", "key.revoked"),
            *("provider_key.left", "provider_key.deleted"),
        ]
        assert {record["by"] for record in page["records"]} == {own}
        assert page["records"][1]["request_id"] == "mine-1"
        assert all(record["request_id"] for record in page["records"])
        verdict = (await client.get("/v1/audit/verdict")).json()
        assert verdict["is_whole"]
        assert (verdict["records"], verdict["last_digest"]) == (page["next_after"], page["records"][-1]["digest"])


async def test_keys_of_another_tenant_are_not_there(it: Served) -> None:
    """In the words of an id that nobody has, whatever is asked of them."""
    async with tenant_of_its_own(it) as client, tenant_of_its_own(it) as stranger:
        mine, nobody = (await made(client))["key_id"], "key_" + "0" * 32

        async def ask(key_id: str) -> list[tuple[int, str]]:
            path = f"/v1/keys/{key_id}"
            replies = [
                await stranger.get(path),
                await stranger.patch(path, json={"name": "x"}),
                await stranger.post(f"{path}/rotate", json={}),
                await stranger.post(f"{path}/revoke"),
            ]
            return [(reply.status_code, reply.json()["detail"].replace(key_id, "")) for reply in replies]

        assert await ask(mine) == await ask(nobody)
        assert {status for status, _ in await ask(mine)} == {404}
        assert (await client.get(f"/v1/keys/{mine}")).json()["state"] == "active"


async def test_a_tenant_that_is_gone_makes_no_keys(it: Served) -> None:
    """The operator is told that there is no such tenant."""
    async with it.client_with(await it.secret(Scope.ADMIN)) as admin:
        gone = TenantId("ten_" + "0" * 32)
        reply = await admin.post(f"/v1/admin/tenants/{gone}/keys", json={"name": "n", "scopes": ["runs"]})
        assert (reply.status_code, reply.json()["detail"]) == (404, f"there is no tenant {gone}")
