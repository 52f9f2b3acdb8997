"""The examples of docs/tenants.md, run in order as a reader would."""

import re
from contextlib import ExitStack
from pathlib import Path

import anyio.to_thread
import httpx
import pytest

from service.tenants.values import Scope
from tests.machine import ROOT
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

PAGE = Path(ROOT) / "docs" / "tenants.md"


async def test_the_examples_of_the_page_hold(it: Served) -> None:
    """Every block runs after the one before it, and what it asserts is so."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    admin_key = await it.secret(Scope.ADMIN)

    def read_along() -> None:
        with ExitStack() as clients:

            def client_with(secret: str) -> httpx.Client:
                headers = {"authorization": f"Bearer {secret}"}
                return clients.enter_context(
                    httpx.Client(base_url=it.address, headers=headers, timeout=60, trust_env=False)
                )

            names: dict[str, object] = {"operator": client_with(admin_key), "tenants_client": client_with}
            for block in blocks:
                exec(compile(block, str(PAGE), "exec"), names)

    await anyio.to_thread.run_sync(read_along)
