"""Who may come in: the key is looked at before anything else of a request."""

import socket
from contextlib import closing

import anyio
import anyio.to_thread
import pytest

from service.tenants.values import OPERATOR, Scope
from tests.runs.playing import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio


def exchange(address: str, request: bytes) -> bytes:
    """What comes back for these bytes until the service closes."""
    host, port = address.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
        connection.sendall(request)
        found = b""
        while data := connection.recv(65536):
            found += data
    return found


async def test_a_key_is_taken_from_either_header(it: Served) -> None:
    """`Authorization: Bearer` and `x-api-key` alike; anything else is told how a key is sent."""
    secret = await it.secret(Scope.CONTEXTS)
    async with it.client_with(None) as client:
        for headers in ({"authorization": f"bearer {secret}"}, {"x-api-key": secret}):
            assert (await client.get("/v1/contexts", headers=headers)).status_code == 200
        for headers in (
            {},
            {"authorization": secret},
            {"authorization": f"Basic {secret}"},
            {"authorization": "Bearer"},
            {"x-api-key": "x" * 5000},
            {"authorization": f"Bearer {secret.swapcase()}"},
        ):
            reply = await client.get("/v1/contexts", headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
            assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_a_refused_caller_costs_not_a_byte_of_a_body(it: Served) -> None:
    """Without a key, a body that was announced is not waited for: the refusal comes at once and the connection ends."""
    for path in (b"/v1/runs", b"/v1/contexts"):
        request = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\ncontent-type: application/json\r\n\r\n"
        with anyio.fail_after(60):
            found = await anyio.to_thread.run_sync(exchange, it.address, request % path)
        assert found.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in found.lower()


async def test_a_scope_is_needed_for_what_it_names(it: Served) -> None:
    """A key for contexts cannot ask questions, one for runs cannot store; the refusal names the scope."""
    async with it.client_with(await it.secret(Scope.CONTEXTS)) as client:
        reply = await client.get("/v1/runs")
        assert (reply.status_code, reply.json()["data"]["scope"]) == (403, "runs")
    async with it.client_with(await it.secret(Scope.RUNS)) as client:
        reply = await client.post("/v1/contexts", json={"text": "a"})
        assert (reply.status_code, reply.json()["data"]["scope"]) == (403, "contexts")


async def test_a_key_names_only_the_models_on_its_list(it: Served) -> None:
    """Root LM and sub-model alike; the refusal names the model, and nothing was submitted."""
    body = await it.submission()
    async with it.client_with(await it.secret(models=(ROOT,))) as client:
        refused = await client.post("/v1/runs", json=body)
        assert (refused.status_code, refused.json()["code"]) == (403, "model_not_allowed")
        assert (await client.post("/v1/runs", json=body | {"sub_model": ROOT})).status_code == 202


async def test_a_suspended_tenant_gets_nothing(it: Served) -> None:
    """Its keys are right and refused all the same, until it is resumed."""
    tenant = await it.tenants.create("suspended", by=OPERATOR)
    secret = await it.secret(tenant_id=tenant.id)
    await it.tenants.suspend(tenant.id, by=OPERATOR)
    async with it.client_with(secret) as client:
        reply = await client.get("/v1/contexts")
        assert (reply.status_code, reply.json()["code"]) == (403, "tenant_suspended")


async def test_a_path_that_there_is_not_is_not_found_with_and_without_a_key(it: Served) -> None:
    """Which routes there are stands in the OpenAPI document, which everybody may read."""
    async with it.client_with(None) as client:
        for path in ("/v1/nothing", "/nothing", "/v1/runs/"):
            reply = await client.get(path)
            assert (reply.status_code, reply.json()["code"]) == (404, "not_found"), path
            assert (await it.client.get(path)).json()["detail"] == reply.json()["detail"]
        assert (await client.put("/v1/runs")).status_code == 405
        assert (await client.get("/v1/runs")).status_code == 401
        assert (await client.get("/openapi.json")).status_code == 200
