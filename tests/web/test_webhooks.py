"""Webhooks over HTTP."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from service.tenants.values import OPERATOR, Scope
from service.webhooks.delivering import Delivering
from tests.machine import ROOT
from tests.web.serving import Served, served
from tests.webhooks.receiving import receiving

pytestmark = pytest.mark.anyio

PAGE = Path(ROOT) / "docs" / "webhooks.md"


@pytest.fixture(scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Served]:
    """A service whose operator allows receivers on this machine, and that delivers."""
    settings = {"RLM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    async with (
        served(tmp_path_factory.mktemp("webhooks"), settings=settings) as running,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(Delivering(running.rooms.webhooks, running.rooms.tenancy).keep_delivering)
        yield running
        tasks.cancel_scope.cancel()


@pytest.fixture
async def client(it: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Of a tenant of the test's own."""
    tenant = await it.tenants.create("ours", by=OPERATOR)
    async with it.client_with(await it.secret(Scope.WEBHOOKS, Scope.KEYS, tenant_id=tenant.id)) as its_client:
        yield its_client


URL = "http://127.0.0.1:9/hook?token=secret"


async def test_a_webhook_is_made_changed_and_deleted(client: httpx.AsyncClient) -> None:
    """Its secret is shown when it is made and rotated, and nowhere else; what was done is logged, without the path."""
    made = await client.post("/v1/webhooks", json={"url": URL, "name": "n"})
    assert made.status_code == 201, made.text
    hook = made.headers["location"]
    shown = (await client.get(hook)).json()
    assert shown == {k: v for k, v in made.json().items() if k != "secret"} | {"dropped_events": 0}
    assert [each["webhook_id"] for each in (await client.get("/v1/webhooks")).json()["webhooks"]] == [
        shown["webhook_id"]
    ]
    changed = (await client.patch(hook, json={"name": "other", "url": URL + "2", "is_enabled": False})).json()
    assert (changed["name"], changed["url"], changed["is_enabled"]) == ("other", URL + "2", False)
    rotated = (await client.post(f"{hook}/rotate")).json()
    assert rotated["secret"] != made.json()["secret"]
    assert (await client.delete(hook)).status_code == 204
    assert (await client.get(hook)).status_code == 404
    log = await client.get("/v1/audit")
    assert [record["action"] for record in log.json()["records"]][2:] == [
        *("webhook.created", "webhook.changed", "webhook.rotated", "webhook.deleted"),
    ]
    assert "token" not in log.text


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "http://8.8.8.8/", "https://[::1]/", "nothing"])
async def test_a_url_that_may_not_be_asked_is_refused(client: httpx.AsyncClient, url: str) -> None:
    """When it is made and when it is changed."""
    refused = await client.post("/v1/webhooks", json={"url": url})
    assert (refused.status_code, refused.json()["code"]) == (422, "forbidden_target")
    hook = (await client.post("/v1/webhooks", json={"url": URL})).headers["location"]
    assert (await client.patch(hook, json={"url": url})).json()["code"] == "forbidden_target"


async def test_there_are_so_many_and_no_more(client: httpx.AsyncClient) -> None:
    """The twenty-first is refused; it fits when another was deleted."""
    hooks = [(await client.post("/v1/webhooks", json={"url": URL})).headers["location"] for _ in range(20)]
    refused = await client.post("/v1/webhooks", json={"url": URL})
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    await client.delete(hooks[0])
    assert (await client.post("/v1/webhooks", json={"url": URL})).status_code == 201


async def test_webhooks_are_not_handed_down(it: Served, client: httpx.AsyncClient) -> None:
    """A key that another key made can do nothing with them, whatever its scopes."""
    child = await client.post("/v1/keys", json={"name": "child", "scopes": ["webhooks"]})
    async with it.client_with(child.json()["secret"]) as other:
        for reply in (await other.get("/v1/webhooks"), await other.post("/v1/webhooks", json={"url": URL})):
            assert (reply.status_code, reply.json()["code"]) == (403, "not_permitted")


async def test_deliveries_are_listed_in_pages(client: httpx.AsyncClient) -> None:
    """The newest first, each once."""
    async with receiving() as receiver:
        hook = (await client.post("/v1/webhooks", json={"url": receiver.url})).headers["location"]
        made = [(await client.post(f"{hook}/test")).json()["delivery_id"] for _ in range(3)]
        first = (await client.get(f"{hook}/deliveries", params={"limit": 2})).json()
        rest = (await client.get(f"{hook}/deliveries", params={"cursor": first["next_cursor"]})).json()
        assert [each["delivery_id"] for each in first["deliveries"] + rest["deliveries"]] == made[::-1]
        assert rest["next_cursor"] is None
        await receiver.heard_at_least(3)


async def test_webhooks_of_another_tenant_are_not_there(it: Served, client: httpx.AsyncClient) -> None:
    """In the words of an id that nobody has, deliveries too, and nothing is changed."""
    mine = (await client.post("/v1/webhooks", json={"url": URL})).headers["location"]
    delivery = (await client.post(f"{mine}/test")).json()["delivery_id"]
    nobody, none = f"/v1/webhooks/whk_{'0' * 32}", f"dlv_{'0' * 32}"
    async with it.as_other_tenant() as other:
        own = (await other.post("/v1/webhooks", json={"url": URL})).headers["location"]

        async def ask(hook: str, one: str) -> list[tuple[int, str]]:
            replies = [
                await other.get(hook),
                await other.patch(hook, json={"name": "x"}),
                *[await other.post(f"{hook}/{act}") for act in ("rotate", "test")],
                await other.get(f"{hook}/deliveries"),
                await other.get(f"{hook}/deliveries/{one}"),
                await other.post(f"{hook}/deliveries/{one}/redeliver"),
                await other.get(f"{own}/deliveries/{one}"),
                await other.delete(hook),
            ]
            return [
                (reply.status_code, reply.json()["detail"].replace(hook.rpartition("/")[2], "").replace(one, ""))
                for reply in replies
            ]

        assert await ask(mine, delivery) == await ask(nobody, none)
        assert {code for code, _ in await ask(mine, delivery)} == {404}
    assert (await client.get(mine)).json()["is_enabled"]


async def test_the_examples_of_the_page_hold(it: Served, client: httpx.AsyncClient) -> None:
    """Every block of docs/webhooks.md runs after the one before it, and what it asserts is so."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    async with receiving() as receiver:

        def read_along() -> None:
            with httpx.Client(base_url=it.address, headers=dict(client.headers), timeout=60, trust_env=False) as reader:
                names: dict[str, object] = {"client": reader, "receiver": receiver.url, "pause": lambda: None}
                for block in blocks:
                    exec(compile(block, str(PAGE), "exec"), names)

        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(read_along)
