"""The examples of docs/dialects.md, run in order as a reader would; and its list of routes."""

import re
from pathlib import Path

import anyio.to_thread
import httpx
import pytest

from tests.machine import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PAGE = Path(ROOT) / "docs" / "dialects.md"


async def test_the_examples_of_the_page_hold(it: Served) -> None:
    """Every block runs after the one before it, and what it asserts is so."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    key = await it.secret()

    def read_along() -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=it.address, headers=headers, timeout=60, trust_env=False) as client:
            names: dict[str, object] = {"client": client}
            for block in blocks:
                exec(compile(block, str(PAGE), "exec"), names)

    await anyio.to_thread.run_sync(read_along)


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
