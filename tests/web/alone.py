"""`serve` as its users start it: one process with a store of its own, and its log."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx

from tests.serve_process import PATIENCE_S, Replica, client_of, end, environment, start_replica


def alone(directory: Path, **settings: str) -> dict[str, str]:
    """The environment of one that starts its own store, and of which nobody else's model is asked."""
    return {
        name: value
        for name, value in environment(directory, "http://127.0.0.1:9").items()
        if name not in ("RLM_REDIS_URL", "OPENAI_BASE_URL")
    } | settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """One that listens."""

    replica: Replica
    log_file: Path

    def send_signal(self, number: signal.Signals) -> None:
        self.replica.process.send_signal(number)

    def log(self) -> list[dict[str, Any]]:
        """What it said on stderr, which is nothing but its log: one JSON object a line."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """With the admin key of this very start, if no other is given."""
        secret = key or self.replica.admin_key
        assert secret is not None
        return client_of(self.replica.address, secret)

    async def ends(self) -> int:
        """Its exit code, once it has ended by itself."""
        with anyio.fail_after(PATIENCE_S):
            return await self.replica.process.wait()


@asynccontextmanager
async def serve_alone(directory: Path, **settings: str) -> AsyncIterator[Alone]:
    """A process that listens; it is gone afterwards."""
    log_file = directory / "serve.log"
    with log_file.open("wb") as log:
        started = await start_replica(alone(directory, **settings), log=log)
    try:
        yield Alone(replica=started, log_file=log_file)
    finally:
        await end(started.process)
