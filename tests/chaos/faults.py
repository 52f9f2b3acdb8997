"""Faults: what is done to the cluster, each from its beginning to where it can do no further harm by itself."""

import math
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import anyio

from service.ids import EMBEDDED_TENANT
from service.sandboxes.processes import send
from service.store.connection import Reply, Store, open_store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from tests.chaos.cluster import LEASE_S, MOST_CLIENTS, REPLICAS, Cluster, Sandboxes
from tests.chaos.processes import Part

Fault = Callable[[Cluster, random.Random], Awaitable[bool]]
"""Says whether there was anything to be struck."""

_LONGEST_OUTAGE_S = 5.0
_TAKEN_OVER_WITHIN_S = 20.0


def _living(cluster: Cluster, draw: random.Random) -> str | None:
    """One of the replicas that live."""
    living = [name for name in REPLICAS if name in cluster.replicas]
    return draw.choice(living) if living else None


async def kill_orchestrator(cluster: Cluster, draw: random.Random) -> bool:
    name = _living(cluster, draw)
    if name is None:
        return False
    await cluster.kill(name)
    await anyio.sleep(draw.uniform(0.0, 3.0))
    await cluster.start(name)
    return True


async def kill_gateway(cluster: Cluster, draw: random.Random) -> bool:
    """The gateway lives in its replica's process: it goes with it, at a moment when a sub-call is on its way back."""
    name = await _with_a_call_in_it(cluster)
    if name is None:
        return False
    await cluster.kill(name)
    await cluster.start(name)
    return True


async def pause_orchestrator(cluster: Cluster, draw: random.Random) -> bool:
    """Past its lease: others take its runs over, and it does not know when it goes on."""
    name = _living(cluster, draw)
    if name is None:
        return False
    replica = cluster.replicas[name]
    cluster.signal(name, signal.SIGSTOP)
    await anyio.sleep(draw.uniform(LEASE_S + 1.5, LEASE_S + 4.0))
    if replica.process.returncode is None:
        replica.process.send_signal(signal.SIGCONT)
    return True


async def pause_caller(cluster: Cluster, draw: random.Random) -> bool:
    """While its call is in flight, until another replica has taken a run of its over. Then the provider's answer is
    there for it to write down, and it does not know that it may not."""
    name = await _with_a_call_in_it(cluster)
    if name is None:
        return False
    replica = cluster.replicas[name]
    async with _connection(cluster) as store:
        cluster.signal(name, signal.SIGSTOP)
        try:
            with anyio.move_on_after(_TAKEN_OVER_WITHIN_S):
                await _until_taken_over(store)
            await anyio.sleep(draw.uniform(0.0, 1.0))
        finally:
            if replica.process.returncode is None:
                replica.process.send_signal(signal.SIGCONT)
    return True


async def _with_a_call_in_it(cluster: Cluster) -> str | None:
    """A replica at a moment when a sub-call is on its way back to it."""
    with anyio.move_on_after(20):
        name = await cluster.upstream.until_in_flight()
        return name if name in cluster.replicas else None
    return None


async def _keepers(store: Store) -> dict[bytes, Reply]:
    """Run → the replica that claimed it last."""
    keys = Keys(EMBEDDED_TENANT)
    runs = await store.read("ZRANGE", keys("runs", "unfinished"), 0, -1)
    assert isinstance(runs, list)
    names = [run for run in runs if isinstance(run, bytes)]
    kept = [await store.read("HGET", keys("run", run.decode()), "keeper") for run in names]
    return dict(zip(names, kept, strict=True))


async def _until_taken_over(store: Store) -> None:
    """Until some run has another keeper than now."""
    before = await _keepers(store)
    while True:
        now = await _keepers(store)
        if any(now[run] != before[run] for run in now.keys() & before.keys() if before[run]):
            return
        await anyio.sleep(0.1)


async def restart_orchestrator(cluster: Cluster, draw: random.Random) -> bool:
    name = _living(cluster, draw)
    if name is None:
        return False
    await cluster.terminate(name)
    await cluster.start(name)
    return True


async def kill_store(cluster: Cluster, draw: random.Random) -> bool:
    await cluster.kill_store()
    await anyio.sleep(draw.uniform(0.0, _LONGEST_OUTAGE_S))
    await cluster.start_store()
    return True


async def pause_store(cluster: Cluster, draw: random.Random) -> bool:
    assert cluster.store is not None
    cluster.store.send_signal(signal.SIGSTOP)
    await anyio.sleep(draw.uniform(0.5, _LONGEST_OUTAGE_S))
    cluster.store.send_signal(signal.SIGCONT)
    return True


async def slow_store(cluster: Cluster, draw: random.Random) -> bool:
    """Every few requests it thinks for a while."""
    async with _connection(cluster) as store:
        for _ in range(10):
            await store.write("DEBUG", "SLEEP", f"{draw.uniform(0.05, 0.4):.2f}")
            await anyio.sleep(0.05)
    return True


async def fill_store(cluster: Cluster, draw: random.Random) -> bool:
    """It has no memory left, and takes no write that needs any (`noeviction`)."""
    async with _connection(cluster) as store:
        await store.write("CONFIG", "SET", "maxmemory", "1")
        await anyio.sleep(draw.uniform(0.5, _LONGEST_OUTAGE_S))
        await store.write("CONFIG", "SET", "maxmemory", "0")
    return True


async def storm_store(cluster: Cluster, draw: random.Random) -> bool:
    """Others take every connection that it gives, while the replicas need new ones."""
    async with AsyncExitStack() as stack:
        for _ in range(MOST_CLIENTS):
            with suppress(OSError, anyio.BrokenResourceError):
                stream = await anyio.connect_unix(str(cluster.directory / "s"))
                stack.push_async_callback(_hang_up, stream)
                await stream.send(b"PING\r\n")
        await anyio.sleep(draw.uniform(0.5, 3.0))
    return True


async def _hang_up(stream: anyio.abc.SocketStream) -> None:
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.aclose()


def _connection(cluster: Cluster) -> "_Connection":
    return _Connection(cluster)


class _Connection:
    """To the store, past everything of the service's; a store that is gone meanwhile has its own fault."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Store:
        return await self._stack.enter_async_context(
            open_store(data_directory=self._cluster.directory, redis_url=self._cluster.store_url)
        )

    async def __aexit__(self, *exc: object) -> bool:
        await self._stack.aclose()
        return isinstance(exc[1], StoreFailed)


def killing(part: Part) -> Fault:
    async def kill(cluster: Cluster, draw: random.Random) -> bool:
        found = [each for one in await cluster.sandboxes() if (each := one.part(part)) is not None]
        return bool(found) and send(draw.choice(found), signal.SIGKILL)

    return kill


def pausing(part: Part, longest_s: float) -> Fault:
    async def pause(cluster: Cluster, draw: random.Random) -> bool:
        found = [each for one in await cluster.sandboxes() if (each := one.part(part)) is not None]
        if not found or not send(target := draw.choice(found), signal.SIGSTOP):
            return False
        await anyio.sleep(draw.uniform(0.2, longest_s))
        send(target, signal.SIGCONT)
        return True

    return pause


async def kill_launcher(cluster: Cluster, draw: random.Random) -> bool:
    """The one process with the engine's socket; its containers run on, and the next one takes them up."""
    await cluster.kill_launcher()
    await anyio.sleep(draw.uniform(0.0, _LONGEST_OUTAGE_S))
    await cluster.start_launcher()
    return True


async def pause_launcher(cluster: Cluster, draw: random.Random) -> bool:
    assert cluster.launcher is not None
    cluster.launcher.send_signal(signal.SIGSTOP)
    try:
        await anyio.sleep(draw.uniform(0.5, _LONGEST_OUTAGE_S))
    finally:
        cluster.launcher.send_signal(signal.SIGCONT)
    return True


EVERYWHERE: Mapping[str, Fault] = {
    "orchestrator killed": kill_orchestrator,
    "orchestrator paused with a call in it": pause_caller,
    "gateway killed with a call in it": kill_gateway,
    "store killed": kill_store,
    "kernel killed": killing("kernel"),
}
FAULTS: Mapping[Sandboxes, Mapping[str, Fault]] = {
    "process": {
        **EVERYWHERE,
        "orchestrator paused past its lease": pause_orchestrator,
        "orchestrator told to end": restart_orchestrator,
        "store paused": pause_store,
        "store slow": slow_store,
        "store full": fill_store,
        "store stormed": storm_store,
        "kernel paused": pausing("kernel", 3.0),
        "supervisor killed": killing("supervisor"),
        "supervisor paused": pausing("supervisor", 8.0),
        "sandbox killed": killing("sandbox"),
    },
    "docker": {
        **EVERYWHERE,
        "container killed": killing("sandbox"),
        "container paused": pausing("sandbox", 8.0),
        "launcher killed": kill_launcher,
        "launcher paused": pause_launcher,
    },
}
"""What may be struck, by what the sandboxes are; each comes before any comes again, so containers, which are slow, have
fewer of those that do not concern them. In a container the supervisor is its first process."""
_IN_ONE_SANDBOX = frozenset({"kernel", "supervisor", "sandbox", "container"})
_IN_ALL_SANDBOXES = frozenset({"launcher"})


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that found something to be struck."""

    name: str
    at: float
    """When it began, in Unix seconds."""
    ended_at: float

    @property
    def loses(self) -> float:
        """How many runs it may end as `sandbox_lost`: one for a sandbox, any number for what carries them all."""
        return math.inf if self._who in _IN_ALL_SANDBOXES else float(self._who in _IN_ONE_SANDBOX)

    @property
    def leaves_leases(self) -> bool:
        """Whether what was counted may be left to lapse: whoever should have given it back could not."""
        return self._who in ("orchestrator", "gateway", "store")

    @property
    def _who(self) -> str:
        return self.name.partition(" ")[0]
