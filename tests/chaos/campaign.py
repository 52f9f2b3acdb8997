"""A campaign: many runs under many faults, and what the audit finds afterwards."""

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from service.ids import RunId
from service.store.connection import open_store
from tests.chaos.audit import (
    Auditor,
    Books,
    Findings,
    check_books,
    check_clients,
    check_left_behind,
    check_sandboxes,
)
from tests.chaos.clients import PATIENCE_S, Client, Seen
from tests.chaos.cluster import END_WITHIN_S, REPLICAS, Cluster, Sandboxes, cluster
from tests.chaos.faults import FAULTS, Strike
from tests.chaos.plays import NOTES, Kind, Play
from tests.chaos.processes import descriptors_of
from tests.serve_process import SERVE, client_of

CLIENTS = 7
"""At once; each waits for its run's end."""
_CALLS_BETWEEN_FAULTS = (2, 16)
_LOOKS = 200
_BETWEEN_LOOKS_S = 0.3
_WEIGHTS: dict[Kind, int] = {"plain": 3, "batch": 2, "recursion": 3, "session": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of it."""

    runs: int
    most_s: float
    """No new runs after that, however few there were."""
    restarts: int = 0
    """Of replicas, in the rolling restart."""
    patience_s: float = PATIENCE_S
    """Of a client with one run."""


@dataclass(eq=False)
class Campaign:
    """One, under way."""

    cluster: Cluster
    seed: int
    size: Size
    faults: Sequence[str]
    """Those that may strike."""
    seen: list[Seen] = field(default_factory=list)
    struck: list[Strike] = field(default_factory=list)
    _began_at: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Until all runs have been begun, or time is up, and every client is done."""
        async with anyio.create_task_group() as faults:
            faults.start_soon(self._strike)
            async with anyio.create_task_group() as clients:
                jobs = iter(self._jobs())
                ends_at = time.monotonic() + self.size.most_s

                async def work() -> None:
                    async with client_of(self.cluster.balancer.address, self.cluster.admin_key) as http:
                        for kind, name in jobs:
                            if time.monotonic() > ends_at:
                                return
                            client = Client(http, patience_s=self.size.patience_s)
                            if kind == "session":
                                self.seen += await client.play_session(name)
                            else:
                                self.seen.append(await client.play(Play(kind=kind, tag=name)))

                for _ in range(CLIENTS):
                    clients.start_soon(work)
            self._say("every client is done")
            faults.cancel_scope.cancel()

    def _say(self, what: str) -> None:
        """For people who wait, and for those who look for what went before a failure."""
        since_s = time.monotonic() - self._began_at
        print(f"{since_s:7.1f} s  {len(self.seen):4} runs  {what}", file=sys.stderr, flush=True)

    def _jobs(self) -> list[tuple[Kind, str]]:
        draw = random.Random(self.seed)
        kinds = list(_WEIGHTS)
        jobs: list[tuple[Kind, str]] = []
        runs = 0
        while runs < self.size.runs:
            (kind,) = draw.choices(kinds, weights=list(_WEIGHTS.values()))
            jobs.append((kind, f"j{len(jobs)}"))
            runs += NOTES if kind == "session" else 1
        return jobs

    async def _strike(self) -> None:
        """One fault after the other; what was begun is brought to its end."""
        draw = random.Random(self.seed + 1)
        order: list[str] = []
        while True:
            due = len(self.cluster.upstream.asked) + draw.randint(*_CALLS_BETWEEN_FAULTS)
            with anyio.move_on_after(10):  # where nothing moves any more, a fault may well be what is missing
                await self.cluster.upstream.until_asked(due)
            if not order:
                order = draw.sample(self.faults, len(self.faults))
            name = order.pop()
            with anyio.CancelScope(shield=True):
                at = time.time()
                if await FAULTS[self.cluster.sandboxes_are][name](self.cluster, draw):
                    self.struck.append(Strike(name, at, time.time()))
                    self._say(name)


async def until_quiet(auditor: Auditor, *, looks: int) -> None:
    """Until no run is unfinished and no money held, or patience is at its end: then the audit finds what is."""
    for _ in range(looks):
        if not (await auditor.unfinished() or await auditor.leaked_keys()):
            return
        await anyio.sleep(_BETWEEN_LOOKS_S)


async def until_gone(cluster: Cluster) -> list[str]:
    """The containers that are left when no replica wants them any more and patience is at its end."""
    for _ in range(_LOOKS):
        if not (found := await cluster.containers()):
            return []
        await anyio.sleep(_BETWEEN_LOOKS_S)
    return found


async def campaign(
    directory: Path,
    *,
    seed: int,
    size: Size,
    sandboxes: Sandboxes = "process",
    command: Sequence[str] = SERVE,
    faults: Sequence[str] = (),
) -> tuple[Campaign, Findings]:
    """Play it, and look at everything. Without faults named, all may strike that there are for such sandboxes."""
    findings = Findings()
    async with cluster(directory, seed=seed, command=command, sandboxes=sandboxes) as opened:
        played = Campaign(opened, seed, size, faults or tuple(FAULTS[sandboxes]))
        await played.run()
        async with open_store(data_directory=directory, redis_url=opened.store_url) as store:
            auditor = Auditor(store, directory / "data")
            await until_quiet(auditor, looks=min(_LOOKS, round(size.patience_s / _BETWEEN_LOOKS_S)))
            findings.lost += [f"{run_id} is unfinished" for run_id in await auditor.unfinished()]
            findings.leaked += await auditor.leaked_keys()
            await _check_descriptors(opened, findings)
            for name in REPLICAS:
                if await opened.terminate(name, within_s=min(END_WITHIN_S, size.patience_s)) is None:
                    findings.leaked.append(f"replica {name} did not end when it was told to")
            left_alone_at = max((strike.ended_at for strike in played.struck if strike.leaves_leases), default=0.0)
            findings.leaked += await auditor.leaked_leases(left_alone_at)
            findings.leaked += [f"container of {each}" for each in await until_gone(opened)]
            books_of: dict[str, Books] = {}
            for each in played.seen:
                if each.run_id is not None:
                    run_id = RunId(each.run_id)
                    arrived = [asked for asked in opened.upstream.asked if asked.tag == each.play.tag]
                    spent, held = await auditor.spent_and_held(run_id)
                    books = await auditor.books(run_id)
                    check_books(books, arrived, spent, held, findings)
                    books_of[run_id] = books
            check_clients(played.seen, books_of, findings)
            check_sandboxes(books_of.values(), played.struck, findings)
        check_left_behind(directory / "data", findings)
    return played, findings


async def _check_descriptors(cluster: Cluster, findings: Findings) -> None:
    """A replica holds no owner file of a sandbox that is gone, but while it is just removing one."""
    forsaken: dict[str, int] = {}
    for _ in range(_LOOKS):
        forsaken = {
            name: sum(".owner" in path and path.endswith("(deleted)") for path in descriptors_of(replica.process.pid))
            for name, replica in cluster.replicas.items()
        }
        if not any(forsaken.values()):
            return
        await anyio.sleep(_BETWEEN_LOOKS_S)
    findings.leaked += [
        f"{name} holds {count} descriptors of sandboxes that are gone" for name, count in forsaken.items()
    ]
