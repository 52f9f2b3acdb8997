"""A rolling restart: replicas end and start again in turn under load, and no request of a client may fail for it.

The clients forgive nothing but what server-sent events provide for: a stream may end at any time, and goes on behind
`Last-Event-ID`. Each request has a connection of its own, as a balancer's check would see to it that it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx

from tests.chaos.clients import Client, Seen
from tests.chaos.cluster import REPLICAS, cluster
from tests.chaos.plays import Kind, Play
from tests.serve_process import PATIENCE_S, SERVE

_KINDS: Sequence[Kind] = ("plain", "recursion", "session", "batch")
_CLIENTS = 4
_CALLS_BETWEEN = 12
"""Calls to the provider between two restarts, so that each comes in the middle of the load."""


@dataclass(eq=False)
class Rolled:
    """What the clients saw."""

    seen: list[Seen] = field(default_factory=list)
    restarts: int = 0
    requests: int = 0
    complaints: list[str] = field(default_factory=list)

    def findings(self) -> list[str]:
        """What should not have been, in sentences."""
        found = list(self.complaints)
        for each in self.seen:
            if each.complaint:
                found.append(f"{each.play.tag} ({each.run_id}): {each.complaint}")
            elif each.answer != each.play.answer:
                found.append(f"{each.play.tag} ({each.run_id}) ended as {each.stop_reason} with {each.answer!r}")
        return found


async def rolling_restart(directory: Path, *, seed: int, restarts: int) -> Rolled:
    """Restart the replicas in turn, that many times in all, with clients at work all the time."""
    rolled = Rolled()
    async with cluster(directory, seed=seed, command=SERVE) as opened:
        is_over = anyio.Event()

        async def work(worker: int) -> None:
            limits = httpx.Limits(max_keepalive_connections=0)
            headers = {"authorization": f"Bearer {opened.admin_key}"}
            async with httpx.AsyncClient(
                base_url=opened.balancer.address, headers=headers, timeout=PATIENCE_S, trust_env=False, limits=limits
            ) as http:
                client = Client(http, forgives=False)
                number = 0
                while not is_over.is_set():
                    kind = _KINDS[(worker + number) % len(_KINDS)]
                    if kind == "session":
                        rolled.seen += await client.play_session(f"w{worker}n{number}")
                    else:
                        rolled.seen.append(await client.play(Play(kind=kind, tag=f"w{worker}n{number}")))
                    number += 1
                rolled.requests += client.requests
                rolled.complaints += client.complaints

        async with anyio.create_task_group() as clients:
            for worker in range(_CLIENTS):
                clients.start_soon(work, worker)
            for number in range(restarts):
                await opened.upstream.until_asked(len(opened.upstream.asked) + _CALLS_BETWEEN)
                name = REPLICAS[number % len(REPLICAS)]
                if (status := await opened.terminate(name)) != 0:
                    rolled.complaints.append(f"replica {name} ended with {status}")
                await opened.start(name)
                rolled.restarts += 1
            is_over.set()
        for name in REPLICAS:
            await opened.terminate(name)
    return rolled
