"""The processes under attack: one store, two replicas behind one address, and what they started."""

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.to_thread

from service.ids import EMBEDDED_TENANT
from tests import serve_process
from tests.chaos.balancer import Balancer, balancing
from tests.chaos.containers import SOCKET, containers_left, sandboxes_in_containers, start_launcher, tell_to_end
from tests.chaos.processes import SandboxProcesses, sandboxes_of
from tests.chaos.upstream import CONFIGURATION, Door, Upstream
from tests.machine import DOCKER_HOST, SANDBOX_IMAGE
from tests.models.protocol_server import serving
from tests.serve_process import SERVE, Replica, start_replica
from tests.store_server import start_store_server

Sandboxes = Literal["process", "docker"]

REPLICAS = ("left", "right")
LEASE_S = 2
MOST_CLIENTS = 400
_STORE_OPTIONS = ("--enable-debug-command", "yes", "--maxclients", str(MOST_CLIENTS))
END_WITHIN_S = 90.0
_LIMITS = {
    **dict.fromkeys(("parallel_runs", "queued_runs", "sandboxes", "model_calls", "open_sessions"), 10_000),
    **dict.fromkeys(("requests_per_minute", "open_contexts"), 1_000_000),
    "tokens_per_minute": 1_000_000_000,
    "storage_bytes": 1 << 40,
    "usd_per_day": "1000",
}


@dataclass(eq=False)
class Cluster:
    """Whoever opens it may end, pause and start again anything of it."""

    directory: Path
    upstream: Upstream
    balancer: Balancer
    doors: dict[str, str]
    """The provider's address for each replica."""
    command: Sequence[str]
    settings: dict[str, str]
    replicas: dict[str, Replica] = field(default_factory=dict)
    """Those that live."""
    admin_key: str = ""
    sandboxes_are: Sandboxes = "process"
    store: anyio.abc.Process | None = None
    launcher: anyio.abc.Process | None = None
    """Of Docker sandboxes."""

    @property
    def sessions(self) -> Path:
        return self.directory / "data" / "sessions"

    @property
    def store_url(self) -> str:
        return f"unix://{self.directory / 's'}"

    async def start_store(self) -> None:
        self.store = await start_store_server(self.directory, *_STORE_OPTIONS)

    async def kill_store(self) -> None:
        assert self.store is not None
        store, self.store = self.store, None
        await serve_process.end(store)

    async def sandboxes(self) -> list[SandboxProcesses]:
        """Those that live."""
        if self.sandboxes_are == "process":
            return sandboxes_of(self.sessions)
        return await anyio.to_thread.run_sync(sandboxes_in_containers, self.directory / "data")

    async def containers(self) -> list[str]:
        """Those that there are, by their sandboxes."""
        if self.sandboxes_are == "process":
            return []
        return await anyio.to_thread.run_sync(containers_left, self.directory / "data")

    async def start_launcher(self) -> None:
        self.launcher = await start_launcher(self.directory)

    async def kill_launcher(self) -> None:
        assert self.launcher is not None
        launcher, self.launcher = self.launcher, None
        await serve_process.end(launcher)

    async def start(self, name: str) -> None:
        """Start a replica, and again while the store that it needs is not there."""
        variables = serve_process.environment(self.directory, self.doors[name], **self.settings)
        with (self.directory / f"{name}.log").open("ab") as log:
            for attempt in range(20):
                try:
                    replica = await start_replica(variables, command=self.command, log=log)
                except RuntimeError:
                    if attempt == 19:
                        raise
                    await anyio.sleep(0.5)
                    continue
                break
        self.replicas[name] = replica
        self.admin_key = replica.admin_key or self.admin_key
        port = urlsplit(replica.address).port
        assert port is not None
        self.balancer.backends[name] = port

    async def limit_tenant(self) -> None:
        """So that everything is counted that can be; nothing ever comes near these limits."""
        async with serve_process.client_of(self.balancer.address, self.admin_key) as http:
            reply = await http.patch(f"/v1/admin/tenants/{EMBEDDED_TENANT}", json={"limits": _LIMITS})
            reply.raise_for_status()

    async def kill(self, name: str) -> None:
        """As a power cut would; nothing is left of it but its children, for a moment."""
        self.balancer.backends.pop(name, None)
        await serve_process.end(self.replicas.pop(name).process)

    async def terminate(self, name: str, *, within_s: float = END_WITHIN_S) -> int | None:
        """Tell it to end, and wait for that; its exit status, None if it had to be killed."""
        replica = self.replicas.pop(name)
        replica.process.send_signal(signal.SIGTERM)
        self.balancer.backends.pop(name, None)
        try:
            with anyio.move_on_after(within_s):
                return await replica.process.wait()
            return None
        finally:
            await serve_process.end(replica.process)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.replicas[name].process.send_signal(number)

    async def aclose(self) -> None:
        """End whatever lives, without waiting for its good manners."""
        with anyio.CancelScope(shield=True):
            for name in list(self.replicas):
                await self.kill(name)
            if self.sandboxes_are == "docker":
                if self.launcher is None:  # what its containers belong to ends them
                    await self.start_launcher()
                assert self.launcher is not None
                await tell_to_end(self.launcher)
            if self.store is not None:
                await self.kill_store()


@asynccontextmanager
async def cluster(
    directory: Path, *, seed: int, command: Sequence[str] = SERVE, sandboxes: Sandboxes = "process", **settings: str
) -> AsyncIterator[Cluster]:
    """A store and two replicas that answer; all of it is gone afterwards."""
    await anyio.Path(directory / "rlm.toml").write_text(CONFIGURATION)
    defaults = {"RLM_CONFIG": str(directory / "rlm.toml"), "RLM_LEASE_S": str(LEASE_S), "RLM_WARM_SANDBOXES": "1"}
    if sandboxes == "docker":
        await _make_room_for_containers(directory)
        defaults |= {"RLM_SANDBOX": "docker", "RLM_DOCKER_IMAGE": SANDBOX_IMAGE, "RLM_DOCKER_HOST": DOCKER_HOST}
        defaults["RLM_LAUNCHER_SOCKET"] = str(directory / SOCKET)
    upstream = Upstream(seed)
    async with AsyncExitStack() as stack:
        doors = {}
        for name in REPLICAS:
            server = await stack.enter_async_context(serving(model=Door(upstream, name)))
            doors[name] = server.base_url
        balancer = await stack.enter_async_context(balancing())
        opened = Cluster(
            directory=directory,
            upstream=upstream,
            balancer=balancer,
            doors=doors,
            command=command,
            settings=defaults | settings,
            sandboxes_are=sandboxes,
        )
        stack.push_async_callback(opened.aclose)
        await opened.start_store()
        if sandboxes == "docker":
            await opened.start_launcher()
        for name in REPLICAS:
            await opened.start(name)
        await opened.limit_tenant()
        yield opened


async def _make_room_for_containers(directory: Path) -> None:
    """The launcher is there before any replica makes its data directory."""
    for path in (directory / "data", directory / "data" / "sessions"):
        await anyio.Path(path).mkdir(mode=0o711)
