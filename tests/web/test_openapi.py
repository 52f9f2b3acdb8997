"""The OpenAPI document says all that a client has to know, and the pages say the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.web.problems import STATUS_OF_CODE
from tests.machine import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PAGE = Path(ROOT) / "docs" / "http-reference.md"


@pytest.fixture(scope="module")
async def document(it: Served) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=it.address, trust_env=False) as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
        return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


async def test_every_operation_is_described(document: dict[str, Any]) -> None:
    """A summary, more than that, and what its parameters are; ids are unique, so that clients can be generated."""
    lacking = [name for name, each in operations(document) if not (each.get("summary") and each.get("description"))]
    assert not lacking
    ids = [each["operationId"] for _, each in operations(document)]
    assert len(ids) == len(set(ids))


async def test_every_json_body_has_an_example(document: dict[str, Any]) -> None:
    """One that its own schema allows is checked where it is sent: in the tests of each resource."""
    for name, operation in operations(document):
        media = operation.get("requestBody", {}).get("content", {}).get("application/json")
        assert media is None or "example" in media or resolved(document, media["schema"]).get("examples"), name


async def test_every_operation_tells_how_it_refuses(document: dict[str, Any]) -> None:
    """With the one body of all refusals, whatever the status; Anthropic's dialect with its own."""
    for name, operation in operations(document):
        refusal = operation["responses"]["default"]["content"]
        if name.startswith("POST /v1/messages"):
            assert list(refusal) == ["application/json"], name  # as that dialect's clients read it
        else:
            assert list(refusal) == ["application/problem+json"], name
            assert resolved(document, refusal["application/problem+json"]["schema"])["title"] == "Problem", name


async def test_the_reference_has_every_route_and_nothing_else(document: dict[str, Any]) -> None:
    """Each with the summary that the document has."""
    rows = dict(re.findall(r"^\| `([A-Z]+ /\S*)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {name: operation["summary"] for name, operation in operations(document)}


def test_the_reference_has_every_code_of_a_refusal() -> None:
    """Those that a client can meet, with their status; what passes between rooms only is none of its business."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {code: str(status) for code, status in STATUS_OF_CODE.items() if status != 500 or code == "internal"}
