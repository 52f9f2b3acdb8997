"""The OpenAPI document says all that a client has to know, and the pages say the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
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


def resolved(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        found: Any = document
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def answers(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of every response, by where it stands."""
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            for kind, media in resolved(document, response).get("content", {}).items():
                yield f"{name} {status} {kind}", media


def requests(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body that can be sent."""
    for name, operation in operations(document):
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} {kind}", media


def examples(document: dict[str, Any], media: dict[str, Any]) -> list[Any]:
    return [media["example"]] if "example" in media else resolved(document, media["schema"]).get("examples", [])


async def test_every_operation_is_described(document: dict[str, Any]) -> None:
    """A summary, more than that, and what its parameters are; ids are unique, so that clients can be generated."""
    lacking = [name for name, each in operations(document) if not (each.get("summary") and each.get("description"))]
    assert not lacking
    ids = [each["operationId"] for _, each in operations(document)]
    assert len(ids) == len(set(ids))


async def test_every_body_has_examples_that_are_so(document: dict[str, Any]) -> None:
    """What is sent and what comes back is shown, and each example has the shape that is told beside it."""
    for where, media in (*requests(document), *answers(document)):
        shown = examples(document, media)
        assert shown, where
        validator = jsonschema.Draft202012Validator({**media["schema"], "components": document["components"]})
        for example in shown:
            assert not list(validator.iter_errors(example)), (where, example)


async def test_every_id_in_a_path_has_an_example(document: dict[str, Any]) -> None:
    """One that its own pattern allows."""
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                shown = parameter["schema"].get("examples", [])
                assert shown, (name, parameter["name"])
                validator = jsonschema.Draft202012Validator(parameter["schema"])
                assert all(validator.is_valid(example) for example in shown), (name, parameter["name"])


async def test_what_makes_a_thing_links_to_what_can_be_done_with_it(document: dict[str, Any]) -> None:
    """Each operation on a thing that can be made over the API is linked from where one is made, with its ids."""
    ids = {operation["operationId"]: name for name, operation in operations(document)}
    linked = set()
    for _, operation in operations(document):
        for response in operation["responses"].values():
            for link in resolved(document, response).get("links", {}).values():
                linked.add(ids[link["operationId"]])
                asked = set(re.findall(r"{(\w+)}", ids[link["operationId"]]))
                assert asked == set(link.get("parameters", ())), link
    made = {"run_id", "context_id", "session_id", "upload_id", "key_id", "tenant_id", "webhook_id", "delivery_id"}
    made |= {"response_id", "file_id"}
    for name, _ in operations(document):
        asked = set(re.findall(r"{(\w+)}", name))
        assert name in linked or not asked or not asked <= made, name


async def test_a_schema_has_a_name_that_people_can_read(document: dict[str, Any]) -> None:
    """No two shapes have one name: the framework would put their modules before it."""
    assert not [name for name in document["components"]["schemas"] if "__" in name]


async def test_every_operation_tells_how_it_refuses(document: dict[str, Any]) -> None:
    """With the one body of all refusals, whatever the status; Anthropic's dialect with its own."""
    for name, operation in operations(document):
        refusals = {
            status: each for status, each in operation["responses"].items() if not status.startswith(("2", "3"))
        }
        assert "default" in refusals
        for status, response in refusals.items():
            content = resolved(document, response)["content"]
            if name.startswith("POST /v1/messages") or (name == "GET /readyz" and status == "503"):
                assert list(content) == ["application/json"], name  # as those who ask read it
            else:
                assert list(content) == ["application/problem+json"], name
                assert resolved(document, content["application/problem+json"]["schema"])["title"] == "Problem", name


async def test_the_reference_has_every_route_and_nothing_else(document: dict[str, Any]) -> None:
    """Each with the summary that the document has."""
    rows = dict(re.findall(r"^\| `([A-Z]+ /\S*)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {name: operation["summary"] for name, operation in operations(document)}


def test_the_reference_has_every_code_of_a_refusal() -> None:
    """Those that a client can meet, with their status; what passes between rooms only is none of its business."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {code: str(status) for code, status in STATUS_OF_CODE.items() if status != 500 or code == "internal"}
