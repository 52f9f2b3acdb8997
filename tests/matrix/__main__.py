"""Start the service, let every client make its calls, and compare what the ledger has with what the provider counted.

python -m tests.matrix [CLIENT …]        # all if none is named; exit code 1 if a row failed or a client is absent
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread
import httpx

from tests.machine import ROOT
from tests.matrix.environments import ClientAbsent, python_of
from tests.matrix.rows import Row, missing, read_row, table
from tests.matrix.upstream import (
    INPUT_USD_PER_MILLION,
    NANO_USD_PER_CALL,
    OUTPUT_USD_PER_MILLION,
    Upstream,
    open_upstream,
)
from tests.serve_process import client_of, end, start_replica


@dataclass(frozen=True, slots=True)
class Client:
    """How a client is tried."""

    driver: str
    """A module of `tests.matrix.drivers`."""
    environment: str
    """What its lock is called."""
    options: tuple[str, ...] = ()
    """What the driver is told."""


CLIENTS = {
    "openai-2": Client("openai_sdk", "openai-2"),
    "openai-3": Client("openai_sdk", "openai-3"),
    "anthropic": Client("anthropic_sdk", "anthropic"),
    "langchain-openai": Client("langchain_openai_chat", "langchain-openai"),
    "litellm": Client("litellm_sdk", "litellm"),
    "dspy": Client("dspy_lm", "dspy", ("lm15",)),
    "dspy-litellm": Client("dspy_lm", "dspy", ("litellm",)),
}
DRIVER_TIMEOUT_S = 900
PATIENCE_S = 60
SCOPES = ["runs", "contexts", "usage", "keys"]


async def main(clients: Sequence[str]) -> int:
    unknown = set(clients) - set(CLIENTS)
    if unknown:
        print(f"no client is named {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rlm-") as directory, open_upstream() as upstream:
        variables = service_variables(Path(directory), upstream)
        with (Path(directory) / "log").open("wb") as log:
            replica = await start_replica(variables, log=log)
            try:
                assert replica.admin_key is not None, "a first start makes a key"
                async with client_of(replica.address, replica.admin_key) as operator:
                    for client in clients or CLIENTS:
                        rows += await rows_of(client, operator, replica.address, upstream)
            finally:
                await end(replica.process)
    print(table(rows), flush=True)
    return 1 if any(row.outcome == "failed" for row in rows) else 0


def service_variables(directory: Path, upstream: Upstream) -> dict[str, str]:
    """Of a service with a store of its own and one model, which the provider plays."""
    configuration = directory / "rlm.toml"
    configuration.write_text(
        f"""[models."matrix/model"]
api = "openai"
upstream = "matrix"
base_url = "http://127.0.0.1:{upstream.port}/v1"
window_tokens = 200000
max_output_tokens = 1000
input_usd_per_million = "{INPUT_USD_PER_MILLION}"
output_usd_per_million = "{OUTPUT_USD_PER_MILLION}"
"""
    )
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "RLM_DATA_DIR": str(directory / "data"),
        "RLM_PORT": "0",
        "RLM_CONFIG": str(configuration),
        "RLM_ROOT_MODEL": "matrix/model",
    }


async def rows_of(client: str, operator: httpx.AsyncClient, address: str, upstream: Upstream) -> list[Row]:
    """What one client told, and how it was paid."""
    try:
        python = await anyio.to_thread.run_sync(python_of, CLIENTS[client].environment)
    except ClientAbsent as exc:
        row = Row(client=client, version="?", call="install", outcome="failed", detail=str(exc))
        print(row.line(), flush=True)
        return [row]
    async with client_of(address, await secret_of(operator, client)) as payer:
        service = {
            "address": address,
            "key": await secret_of(payer, "all"),
            "spent": await secret_of(payer, "spent", usd_per_day="0.000000001"),
            "slow": await secret_of(payer, "slow", requests_per_minute=1),
        }
        counted_before = upstream.calls
        told = await anyio.to_thread.run_sync(run_driver, client, python, json.dumps(service))
        rows = [*told, *missing(client, told)]
        rows = [repeated_once(row, upstream) if row.call.startswith("retry_") else row for row in rows]
        rows.append(await compared(rows[0], payer, upstream, counted_before))
    for row in rows:
        print(row.line(), flush=True)
    return rows


async def secret_of(maker: httpx.AsyncClient, name: str, **limits: object) -> str:
    """Of a new key. What it spends counts as spent by the key that made it, too."""
    made = await maker.post("/v1/keys", json={"name": name, "scopes": SCOPES, "limits": limits})
    return str(made.raise_for_status().json()["secret"])


def run_driver(client: str, python: Path, service: str) -> list[Row]:
    """What the driver told. What it says besides goes to the standard error output."""
    how = CLIENTS[client]
    command = [str(python), "-B", "-m", f"tests.matrix.drivers.{how.driver}", *how.options]
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    try:
        done = subprocess.run(
            command,
            input=service,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=variables,
            timeout=DRIVER_TIMEOUT_S,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as exc:
        told: bytes | str | None = exc.stdout  # bytes or text, as the platform has it
        done = told.decode() if isinstance(told, bytes) else told or ""
    return [read_row(client, line) for line in done.splitlines() if line.startswith('{"client"') and line.endswith("}")]


def repeated_once(row: Row, upstream: Upstream) -> Row:
    """The row of a question that was sent repeatedly, failed unless the provider was asked once."""
    if row.outcome != "passed":
        return row
    calls = upstream.calls_with(row.detail)
    if calls == 1:
        return replace(row, detail="1 call of the provider")
    return replace(row, outcome="failed", detail=f"{calls} calls of the provider; expected 1")


async def compared(first: Row, payer: httpx.AsyncClient, upstream: Upstream, counted_before: int) -> Row:
    """Whether its keys paid for what the provider counted, and for nothing else."""
    counted = upstream.calls - counted_before
    spent = -1
    with anyio.move_on_after(PATIENCE_S):
        while (spent := await spent_nano_usd(payer)) != counted * NANO_USD_PER_CALL:  # noqa: ASYNC110 - a process of its own settles
            await anyio.sleep(0.2)
    as_expected = spent == counted * NANO_USD_PER_CALL
    return Row(
        client=first.client,
        version=first.version,
        call="ledger",
        outcome="passed" if as_expected else "failed",
        detail=f"{counted} calls of {NANO_USD_PER_CALL} nano-USD; the ledger has {spent}",
    )


async def spent_nano_usd(payer: httpx.AsyncClient) -> int:
    """This month, by the key and those that it made."""
    budgets = (await payer.get("/v1/key")).raise_for_status().json()["budgets"]
    own = next(each for each in budgets if each["level"] == "key" and each["period"] == "month")
    return int(own["spent"]["nano_usd"])


if __name__ == "__main__":
    sys.exit(anyio.run(main, sys.argv[1:]))
