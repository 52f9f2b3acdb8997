"""The examples of docs/dialects.md, run in order as a reader would; and its list of routes."""

import re

import pytest

from tests.web.documented import DOCS, reader, try_examples
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PAGE = DOCS / "dialects.md"


async def test_the_examples_of_the_page_hold(it: Served) -> None:
    """Every block runs after the one before it, and what it asserts is so."""
    with reader(it, await it.secret()) as client:
        await try_examples(PAGE, least=5, names={"client": client})


async def test_every_route_of_a_dialect_is_listed(it: Served) -> None:
    """And nothing else is."""
    paths = (await it.client.get("/openapi.json")).json()["paths"]
    routes = {
        path.removesuffix(":path}")
        for path, methods in paths.items()
        for each in methods.values()
        if any("dialect" in tag for tag in each["tags"])
    }
    table = re.findall(r"^\| (`(?:GET|POST|DELETE).*?) \|", PAGE.read_text(), re.MULTILINE)
    listed = {path for row in table for path in re.findall(r"/v1/[a-z_/{}]+", row)}
    assert listed == routes
