"""Real `serve` processes, for tests of what happens between several, or when one of them dies."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio
import anyio.abc
import httpx
from anyio.streams.buffered import BufferedByteReceiveStream

PATIENCE_S = 90
SERVE: Sequence[str] = (str(Path(sys.executable).with_name("rlm-service")), "serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A `serve` process that listens."""

    process: anyio.abc.Process
    address: str
    admin_key: str | None
    """Of the first start ever."""


def environment(directory: Path, upstream: str, **settings: str) -> dict[str, str]:
    """Of one replica among several over the store server of `directory`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "RLM_DATA_DIR": str(directory / "data"),
        "RLM_REDIS_URL": f"unix://{directory / 's'}",
        "RLM_PORT": "0",
        "RLM_LEASE_S": "2",
        "RLM_WARM_SANDBOXES": "0",
        "OPENAI_BASE_URL": upstream,
    } | settings


async def start_replica(
    variables: Mapping[str, str], *, command: Sequence[str] = SERVE, log: IO[bytes] | None = None
) -> Replica:
    """Start a process that answers requests when this returns. Whoever calls it ends it.

    Raises:
        RuntimeError: it ended instead.
    """
    process = await anyio.open_process(list(command), stdout=subprocess.PIPE, stderr=log, env=dict(variables))
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    key = None
    try:
        with anyio.fail_after(PATIENCE_S):
            while not (line := (await lines.receive_until(b"\n", 4096)).decode()).startswith("rlm-service"):
                if "admin key is kept in " in line:
                    file = anyio.Path(line.split("admin key is kept in ")[1].strip())
                    key = (await file.read_text()).strip()
    except BaseException as exc:
        await end(process)
        if isinstance(exc, anyio.IncompleteRead):
            raise RuntimeError(f"serve ended with {process.returncode} before it listened") from exc
        raise
    return Replica(process=process, address=line.split()[-1], admin_key=key)


async def end(process: anyio.abc.Process) -> None:
    """Kill it, if it lives, and let go of it."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.aclose()


@asynccontextmanager
async def replica(directory: Path, upstream: str) -> AsyncIterator[Replica]:
    """A replica for the time of the block; it is gone afterwards."""
    started = await start_replica(environment(directory, upstream))
    try:
        yield started
    finally:
        await end(started.process)


def client_of(address: str, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=address, headers=headers, timeout=PATIENCE_S, trust_env=False)
