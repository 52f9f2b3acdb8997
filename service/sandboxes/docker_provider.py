"""The Docker provider: a sandbox is a container, under runc or under gVisor's runsc, started by the launcher.

The runtime asked for is the runtime in force: where it is missing nothing is started. That it isolates is proven by a
sandbox that tries (`probe`), once, before the first one is given out.
"""

from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from service.errors import RlmServiceError
from service.ids import SandboxId
from service.sandboxes.directory import disown
from service.sandboxes.docker_image import complaint, image_age
from service.sandboxes.docker_launcher import Launcher, Lease
from service.sandboxes.launcher.protocol import CapabilitiesReply, Runtime, StartRequest, StatsReply
from service.sandboxes.levels import LevelName
from service.sandboxes.port import Isolation, Measured, SandboxRefused, SandboxStartFailed, Template
from service.sandboxes.probe import probe

LIFE_S = 24 * 3600
"""No container lives longer: a session that still needs one gets a new one, with its variables rebuilt."""

_ENDS = {
    64: "its command line was not understood: image and service are of different versions",
    70: "its supervisor failed",
    75: "nobody accepted its streams (gVisor needs `--host-uds=all` for that: docs/docker.md)",
    76: "its zygote was lost",
    77: "it could not confine itself",
    78: "its host does not know it",
    127: "the image has no /rlm/python",
    137: "it was killed, by us or for want of memory",
}
"""What the exit statuses of a sandbox mean (`sandbox_image`, and the shells' convention)."""

_log = structlog.get_logger(__name__)


class ContainerProcess:
    """Implements `port.Process`."""

    def __init__(self, launcher: Launcher, sandbox_id: SandboxId, lease: Lease) -> None:
        self._launcher = launcher
        self._sandbox_id = sandbox_id
        self._lease = lease
        self._how: str | None = None
        self._killed = False
        self._one_watch = anyio.Lock()
        """One task at a time reads the lease."""

    @property
    def is_running(self) -> bool:
        return self._how is None and not self._killed and not self._lease.has_ended

    @property
    def dialler_uid(self) -> None:
        """Not known: what dials is gVisor's own process, or mapped by the engine, or on the other side of a mount."""
        return None

    @property
    def pids(self) -> tuple[int, ...]:
        """The first process inside, as this machine counts."""
        return (self._lease.pid,) if self._lease.pid else ()

    async def kill(self) -> None:
        """See `port.Process.kill`."""
        self._killed = True
        with anyio.CancelScope(shield=True):
            if self._how is None:
                await self._launcher.kill(self._sandbox_id)
            self._lease.close()

    async def wait(self) -> str:
        """See `port.Process.wait`."""
        async with self._one_watch:
            if self._how is None:
                status = await self._lease.ended()
                self._how = "the launcher went away" if status is None else _described(status)
        return self._how

    async def pause(self) -> bool:
        """See `port.Process.pause`."""
        try:
            await self._launcher.pause(self._sandbox_id)
        except SandboxRefused as exc:  # before it reached the engine
            _log.warning("sandbox_not_paused", sandbox_id=self._sandbox_id, reason=str(exc))
            return False
        except SandboxStartFailed as exc:
            _log.warning("sandbox_perhaps_not_paused", sandbox_id=self._sandbox_id, reason=str(exc))
        return True

    async def unpause(self) -> None:
        """See `port.Process.unpause`."""
        await self._launcher.unpause(self._sandbox_id)

    async def measure(self) -> Measured | None:
        """See `port.Process.measure`."""
        try:
            stats = await self.stats()
        except RlmServiceError:
            return None
        return Measured(cpu_s=stats.cpu_s, memory_peak_bytes=stats.memory_peak_bytes)

    async def stats(self) -> StatsReply:
        """What it uses, measured from outside."""
        return await self._launcher.stats(self._sandbox_id)

    def __repr__(self) -> str:
        return f"<ContainerProcess {self._sandbox_id} {self._how or ('killed' if self._killed else 'running')}>"


class DockerProvider:
    """Implements `port.Provider`."""

    name = "docker"

    def __init__(
        self,
        launcher: Launcher,
        *,
        sessions: Path,
        image: str,
        runtime: Runtime,
        trust_runc: bool = False,
        life_s: int = LIFE_S,
    ) -> None:
        """`sessions` is the directory that the launcher was told of. `trust_runc`: the operator takes runc for good
        enough for tenants who do not trust each other."""
        self._launcher = launcher
        self._sessions = sessions
        self._image = image
        self._runtime: Runtime = runtime
        self._trust_runc = trust_runc
        self._life_s = life_s
        self._one_probe = anyio.Lock()
        """Probing is done once, however many ask first."""
        self._found: Isolation | None = None

    async def isolation(self) -> Isolation:
        """See `port.Provider.isolation`."""
        async with self._one_probe:
            if self._found is None:
                capabilities = await self._launcher.capabilities()
                remark = check_capabilities(capabilities, runtime=self._runtime, image=self._image)
                described = self._described(capabilities.engine_version)
                if remark is not None:
                    described = replace(described, details=(*described.details, remark))
                    _log.warning("sandbox_image_is_older", image=self._image)
                # A container promises all that the namespaces level does.
                unproven = _UnprovenProvider(self, described)
                found = await probe(unproven, LevelName.NAMESPACES, self._sessions, in_gvisor=self._runtime == "runsc")
                if found.faults:
                    found_text = "; ".join((*found.faults, *([] if remark is None else [remark])))[:1200]
                    raise SandboxRefused(
                        f"{self._runtime} with image {self._image} does not isolate here, or does not start: "
                        f"{found_text}"
                    )
                described = replace(described, details=(*described.details, found.described))
                self._found = described
                _log.info("sandbox_level_found", level=described.level, details=list(described.details))
            return self._found

    async def start(
        self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int
    ) -> ContainerProcess:
        """See `port.Provider.start`."""
        if directory.parent.resolve() != self._sessions.resolve():
            raise SandboxStartFailed(f"expected a session directory under {self._sessions}, found {directory}")
        request = StartRequest(
            sandbox_id=sandbox_id,
            owner_key=self._launcher.owner_key,
            image=self._image,
            runtime=self._runtime,
            memory_bytes=template.memory_bytes,
            tmp_bytes=template.tmp_bytes,
            processes=template.processes,
            open_files=template.open_files,
            file_bytes=template.file_bytes,
            hash_seed=hash_seed,
            life_s=self._life_s,
        )
        return ContainerProcess(self._launcher, sandbox_id, await self._launcher.start(request))

    async def reap(self, directory: Path) -> None:
        """See `port.Provider.reap`."""
        await anyio.to_thread.run_sync(disown, directory)
        await self._launcher.reap(directory.name)

    def _described(self, engine_version: str) -> Isolation:
        details = [f"Docker {engine_version}, image {self._image}"]
        if self._runtime == "runc":
            details.append(
                "runc shares the machine's Linux kernel with the sandboxes: a flaw in Linux is a flaw in them"
            )
            if self._trust_runc:
                details.append("RLM_TRUST_RUNC=1: the operator takes runc for good enough for several tenants")
        return Isolation(
            provider=self.name,
            level=self._runtime,
            multi_tenant=self._runtime == "runsc" or self._trust_runc,
            details=tuple(details),
        )

    def __repr__(self) -> str:
        return f"<DockerProvider {self._runtime} {self._image} {'proven' if self._found else 'not probed'}>"


def check_capabilities(found: CapabilitiesReply, *, runtime: Runtime, image: str) -> str | None:
    """Whether sandboxes can be started there, and what is to be said of the image all the same, if anything. Raises
    `SandboxRefused` with the one thing to do."""
    if runtime not in found.runtimes:
        fix = (
            "install gVisor and name it runsc in the engine's daemon.json (docs/docker.md shows how), or set "
            "RLM_DOCKER_RUNTIME=runc if that is enough for you"
            if runtime == "runsc"
            else "repair the engine's installation"
        )
        raise SandboxRefused(
            f"the runtime {runtime} was asked for and this engine has {', '.join(found.runtimes) or 'none'}: {fix}"
        )
    if not found.seccomp:
        raise SandboxRefused("the Docker engine has no seccomp, without which no sandbox is started: use one that has")
    images = {offered.name: offered for offered in found.images}
    if image not in images:
        raise SandboxRefused(
            f"the launcher may start {', '.join(images)} and not {image}: start it with --image {image}"
        )
    offered = images[image]
    if not offered.present:
        raise SandboxRefused(
            f"the engine has no image {image}: make it with `sh deploy/make_sandbox_image.sh {image}`, or set "
            "RLM_DOCKER_IMAGE to one that it has"
        )
    age = image_age(offered.protocol, offered.sources)
    remark = complaint(image, age)
    if remark is not None and not age.is_usable:
        raise SandboxRefused(remark)
    return remark


class _UnprovenProvider:
    """The same, with an isolation that is only claimed yet, so that the probe can try it."""

    name = "docker"

    def __init__(self, provider: DockerProvider, claimed: Isolation) -> None:
        self._provider = provider
        self._claimed = claimed

    async def isolation(self) -> Isolation:
        return self._claimed

    async def start(
        self, sandbox_id: SandboxId, template: Template, directory: Path, hash_seed: int
    ) -> ContainerProcess:
        return await self._provider.start(sandbox_id, template, directory, hash_seed)

    async def reap(self, directory: Path) -> None:
        await self._provider.reap(directory)


def _described(status: int) -> str:
    meaning = _ENDS.get(status)
    return f"exit status {status}" + (f", {meaning}" if meaning else "")
