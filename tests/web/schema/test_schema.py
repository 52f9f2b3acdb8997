"""The whole API, tried by schemathesis as its OpenAPI document describes it: never a 5xx, and never an answer of which
the document does not tell the status, the type, the headers and the shape."""

import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.tenants.values import OPERATOR, Scope
from tests.runs.playing import ROOT
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

HERE = Path(__file__).resolve().parent
TOOL = str(Path(sys.executable).with_name("schemathesis"))
SEED = "20261120"


ANSWERS = "FINAL(four)"
"""A root LM's whole run, which needs no sandbox: what is tried here is the door."""


@pytest.fixture(scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Served]:
    """A service of its own: what is tried here suspends and limits tenants."""
    async with served(tmp_path_factory.mktemp("served"), ANSWERS) as running:
        yield running


async def tried(it: Served, directory: Path, *, phases: str) -> str:
    """What the tool says at its end. It knows the key of a tenant made for it, and is told of no `default` response:
    each status that comes has to be declared."""
    document: dict[str, Any] = (await it.client.get("/openapi.json")).json()
    for methods in document["paths"].values():
        for operation in methods.values():
            del operation["responses"]["default"]
    file = anyio.Path(directory / "openapi.json")
    await file.write_text(json.dumps(document))
    tenant = await it.tenants.create("tried", by=OPERATOR)
    secret = await it.secret(*Scope, tenant_id=tenant.id)
    async with it.client_with(secret) as client:
        context_id = await it.stored("four", client)
    command = [TOOL, "--config-file", str(HERE / "schemathesis.toml"), "run", str(file), "--url", it.address]
    command += ["--header", f"Authorization: Bearer {secret}"]
    command += ["--phases", phases, "--seed", SEED]
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(directory),
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "hooks",
        "MODELS": f"{ROOT} rlm/default",
        "CONTEXT": context_id,
    }
    done = await anyio.run_process(command, cwd=directory, env=variables, check=False)
    told = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, told[-30_000:]
    async with it.client_with(secret) as client:
        # Otherwise what came last were refusals of the key.
        assert (await client.get("/v1/key")).status_code == 200
    return told


async def test_what_the_document_shows_is_so(it: Served, tmp_path: Path) -> None:
    """Each example of the document, sent to its operation."""
    assert "No issues found" in await tried(it, tmp_path, phases="examples")


@pytest.mark.takes_long
@pytest.mark.timeout(900)
async def test_whatever_is_sent_is_answered_as_the_document_says(it: Served, tmp_path: Path) -> None:
    """What fits the document, and what breaks it in each of its places; other methods than it has; more at random."""
    assert "No issues found" in await tried(it, tmp_path, phases="coverage,fuzzing")


@pytest.mark.takes_long
@pytest.mark.timeout(900)
async def test_whatever_is_done_with_what_was_made_is_answered_so_too(it: Served, tmp_path: Path) -> None:
    """Sequences of requests along the document's links: what one makes, the next ones show, use, change and end."""
    told = await tried(it, tmp_path, phases="stateful")
    covered, links = map(int, re.findall(r"API Links: +(\d+) covered / (\d+) selected", told)[0])
    assert covered > links / 6, told
