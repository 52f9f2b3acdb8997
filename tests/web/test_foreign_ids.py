"""Every route of the OpenAPI document, asked for another tenant's objects: they are not there, and stay as they are."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from service.ids import EMBEDDED_TENANT, new_id
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PATIENCE_S = 60
ANY_ID = re.compile(r"\b(?:ctx|ses|run|upl|key|resp|whk|dlv)_[0-9a-f]{32}\b")
NOT_OF_A_TENANT = {"/v1/models/{model}", "/v1/admin/models/{name}"}
"""What is shown there is the installation's."""
OF_THE_CALLER = {"/v1/provider-keys/{provider}"}
"""Named by the caller, each tenant its own under the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    method: str
    path: str
    body: Any
    """The document's example, if it takes JSON."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Each with each of its examples."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            bodies = examples_of(document, content["application/json"]) if "application/json" in content else [None]
            for body in bodies:
                yield Operation(method=method.upper(), path=path, body=body)


def examples_of(document: dict[str, Any], media: dict[str, Any]) -> list[Any]:
    return [media["example"]] if "example" in media else resolved(document, media["schema"])["examples"]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def ids_asked_for(document: dict[str, Any], schema: dict[str, Any], seen: tuple[str, ...] = ()) -> Iterator[str]:
    """The fields of a body that are ids, by their names, at any depth."""
    name = schema.get("$ref", "")
    if name in seen:
        return
    found = resolved(document, schema)
    for field, inner in found.get("properties", {}).items():
        if field.endswith(("_id", "_ids")):
            yield field
        yield from ids_asked_for(document, inner, (*seen, name) if name else seen)
    inner_schemas = [*found.get("anyOf", ()), *found.get("allOf", ()), *([found["items"]] if "items" in found else ())]
    for inner in inner_schemas:
        yield from ids_asked_for(document, inner, (*seen, name) if name else seen)


async def things_of(it: Served) -> dict[str, str]:
    """One of everything that the tenant `default` can have, by the name of its path parameter."""
    run = await it.client.post("/v1/runs", json=await it.submission(), headers={"prefer": "wait=60"})
    assert run.status_code == 200, run.text
    session = (await it.client.post("/v1/sessions", json={"name": "theirs"})).json()["session_id"]
    await it.client.put(f"/v1/sessions/{session}/files/secret", content=b"theirs")
    await it.client.put(f"/v1/sessions/{session}/variables/secret", json=1)
    upload = (await it.client.post("/v1/uploads", json={"name": "u", "size_bytes": 100})).json()["upload_id"]
    context = await it.client.post("/v1/contexts", json={"open": True})
    key = (await it.client.post("/v1/keys", json={"name": "k", "scopes": ["runs"]})).json()["key_id"]
    webhook = (await it.client.post("/v1/webhooks", json={"url": "https://example.com/"})).json()["webhook_id"]
    delivery = (await it.client.post(f"/v1/webhooks/{webhook}/test")).json()["delivery_id"]
    return {
        "webhook_id": webhook,
        "delivery_id": delivery,
        "run_id": run.json()["run_id"],
        "session_id": session,
        "upload_id": upload,
        "context_id": context.json()["context_id"],
        "key_id": key,
        "digest": "04efaf080f5a3e74e1c29d1ca6a48569382cbbcd324e8d59d2b83ef21c039f00",  # of `four`
        "response_id": run.json()["run_id"].replace("run_", "resp_"),
        "file_id": await it.stored("file"),
        "tenant_id": EMBEDDED_TENANT,
        "name": "secret",
        "path": "secret",
    }


def absent_like(things: dict[str, str]) -> dict[str, str]:
    """Ids of the same shapes that nobody has."""
    digits = new_id("run").partition("_")[2]
    return {
        name: thing[: -len(digits)] + digits if ANY_ID.fullmatch(thing) else thing for name, thing in things.items()
    } | {"digest": "0" * 64, "tenant_id": f"ten_{digits}"}


async def kept_of(it: Served) -> dict[str, object]:
    """All that the store and the disk have of the tenant `default`."""
    store = it.stage.service.store
    found: dict[str, object] = {}
    cursor = b"0"
    while True:
        reply: Any = await store.read("SCAN", cursor, "MATCH", "*default*", "COUNT", "1000")
        cursor, keys = reply
        for key in keys:
            found[str(key)] = await store.read("DUMP", key)
        if int(cursor) == 0:
            break
    blobs = it.stage.directory / "data" / "blobs"
    others = blobs / "tenants"
    for path in blobs.rglob("*"):
        if path.is_file() and not path.is_relative_to(others):
            found[str(path)] = path.stat().st_size
    return found


async def kept_at_rest(it: Served) -> dict[str, object]:
    """Once nothing is being done for the tenant any more: a run's last word is not its last write."""
    with anyio.fail_after(PATIENCE_S):
        while it.stage.service.runs.live:
            await anyio.lowlevel.checkpoint()
        found = await kept_of(it)
        while (again := await kept_of(it)) != found:
            found = again
    return found


async def asked(client: httpx.AsyncClient, operation: Operation, things: dict[str, str]) -> tuple[int, str]:
    """The status, and the body without what differs from request to request: the ids asked for, and the request's."""
    path = operation.path
    for name in operation.parameters:
        path = path.replace(f"{{{name}}}", things.get(name, name))
    headers, content = {}, None
    if operation.body is not None:
        by_prefix = {thing[:4]: thing for thing in things.values() if ANY_ID.fullmatch(thing)}
        text = ANY_ID.sub(lambda found: by_prefix.get(found[0][:4], found[0]), json.dumps(operation.body))
        headers, content = {"content-type": "application/json"}, text.encode()
    elif operation.method in ("PUT", "PATCH"):
        headers, content = {"upload-offset": "0"}, b"mine"
    reply = await client.request(operation.method, path, headers=headers, content=content)
    body = reply.text.replace(reply.headers["x-request-id"], "REQUEST")
    for thing in things.values():
        body = body.replace(thing, "THING") if len(thing) > 6 else body
    return reply.status_code, body


@pytest.mark.takes_long
async def test_what_belongs_to_another_tenant_is_not_there(it: Served) -> None:
    """Each route with a foreign id answers 404 in exactly the words that an absent id gets (403 where the key lacks the
    scope), and nothing of the other tenant has changed by then."""
    document = (await it.client.get("/openapi.json")).json()
    theirs = await things_of(it)
    absent = absent_like(theirs)
    tried = 0
    before = await kept_at_rest(it)
    assert len(before) > 10
    async with it.as_other_tenant() as stranger:
        for operation in operations(document):
            names = json.dumps(operation.body) if operation.body is not None else ""
            if not operation.parameters and not ANY_ID.search(names):
                continue
            if operation.path in NOT_OF_A_TENANT | OF_THE_CALLER:
                continue
            if not operation.parameters and operation.path == "/v1/runs:estimate" and "context_id" not in names:
                continue  # an estimate looks at no session: it says what any such run may cost
            foreign, nobodys = await asked(stranger, operation, theirs), await asked(stranger, operation, absent)
            assert foreign == nobodys, operation
            expected = 403 if operation.path.startswith("/v1/admin/") else 404
            assert foreign[0] == expected, (operation, foreign)
            tried += 1
    assert tried > 40
    assert await kept_of(it) == before


async def test_nothing_with_an_id_is_left_out(it: Served) -> None:
    """Each id in a path is planted by the matrix, and each in a body stands in an example that it sends: whoever adds a
    route with another kind of thing adds the thing."""
    document = (await it.client.get("/openapi.json")).json()
    planted = await things_of(it)
    prefixes = {thing[:4] for thing in planted.values() if ANY_ID.fullmatch(thing)}
    for operation in operations(document):
        if operation.path not in NOT_OF_A_TENANT | OF_THE_CALLER:
            assert set(operation.parameters) <= planted.keys(), operation
        named = {found[:4] for found in re.findall(r"\b[a-z]{3,4}_[0-9a-f]{32}\b", json.dumps(operation.body))}
        assert named <= prefixes, operation
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if media is not None:
                shown = json.dumps(examples_of(document, media))
                lacking = {field for field in ids_asked_for(document, media["schema"]) if f'"{field}"' not in shown}
                assert not lacking, (method, path)
