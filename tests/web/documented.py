"""A page of docs/ as a reader tries it: every block of Python after the one before it."""

import re
from pathlib import Path

import anyio.to_thread
import httpx

from tests.machine import ROOT
from tests.web.serving import Served

DOCS = Path(ROOT) / "docs"


def reader(it: Served, secret: str) -> httpx.Client:
    """The `client` of the pages, with a key."""
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.Client(base_url=it.address, headers=headers, timeout=60, trust_env=False)


async def try_examples(page: Path, *, least: int, names: dict[str, object]) -> None:
    """Run the blocks, which see the names; at least so many must be there."""

    def read_along() -> None:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        assert len(blocks) >= least
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)

    await anyio.to_thread.run_sync(read_along)
