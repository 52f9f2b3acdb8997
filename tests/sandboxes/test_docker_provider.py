"""The Docker provider under runc and under gVisor: the contract, and the profile as a running container shows it."""

import ast
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_image import protocol
from sandbox_image.host_calls import MAX_PARALLEL_CALLS
from service.sandboxes.docker_image import our_sources
from service.sandboxes.docker_launcher import Launcher
from service.sandboxes.docker_provider import ContainerProcess, DockerProvider, check_capabilities
from service.sandboxes.launcher.protocol import CapabilitiesReply, OfferedImage, Runtime
from service.sandboxes.pool import Pool, open_pool
from service.sandboxes.port import Provider, SandboxRefused
from service.sandboxes.probe import GVISOR_BUILD
from service.sandboxes.sandbox import Sandbox
from tests.machine import SANDBOX_IMAGE
from tests.sandboxes.contract import SMALL, SandboxContract, fails_with, printed
from tests.sandboxes.docker_machine import build_image, containers_of, empty, engine, launcher_process
from tests.sandboxes.files_contract import FilesContract
from tests.sandboxes.misnamed_runtime import misnamed_runtime

_CALL_FROM_EVERY_THREAD = """
import threading
go, threads, replies = threading.Event(), [], [llm_query('first')]  # what waits for replies has its thread now
def call(number):
    go.wait()
    replies.append(llm_query(str(number)))
try:
    for number in range(150):
        thread = threading.Thread(target=call, args=(number,))
        thread.start()
        threads.append(thread)
except RuntimeError:
    pass
go.set()
for thread in threads: thread.join()
print(len(replies) == len(threads) + 1 > 64 and all(reply.ok for reply in replies))
"""

_providers: dict[tuple[Path, Runtime], DockerProvider] = {}


def provider_at(data: Path, runtime: Runtime) -> DockerProvider:
    """One a runtime for all its tests, so that it is probed once."""
    if (data, runtime) not in _providers:
        _providers[data, runtime] = DockerProvider(
            Launcher(data / "launcher.sock"), sessions=data / "sessions", image=SANDBOX_IMAGE, runtime=runtime
        )
    return _providers[data, runtime]


@pytest.fixture(scope="module")
def launched() -> Iterator[Path]:
    """A data directory with a launcher, for all tests here."""
    build_image()
    path = Path(tempfile.mkdtemp(prefix="rlm-docker-"))
    path.chmod(0o755)
    with launcher_process(path):
        yield path
    with engine() as client:
        assert containers_of(client, path) == []
    shutil.rmtree(path)


@pytest.fixture
def data(launched: Path) -> Iterator[Path]:
    yield launched
    empty(launched)


def container_of(sandbox: Sandbox) -> ContainerProcess:
    process = sandbox._parts.process
    assert isinstance(process, ContainerProcess)
    return process


class DockerContract(SandboxContract, FilesContract):
    """What every runtime shows beyond the contract."""

    async def test_no_container_is_left_after_a_kill(self, sandbox: Sandbox, data: Path) -> None:
        """The container is gone, not only ended."""
        with engine() as client:
            assert len(containers_of(client, data)) == 1
            await sandbox.kill()
            assert containers_of(client, data) == []

    async def test_tmp_has_its_size(self, sandbox: Sandbox) -> None:
        """Past its size `/tmp` is full."""
        fill = "for n in range(4):\n    with open(f'/tmp/{n}', 'wb') as f: f.write(bytes(15 << 20))"
        assert await fails_with(sandbox, fill) == "OSError"

    async def test_the_root_is_read_only(self, sandbox: Sandbox) -> None:
        """Nothing outside /tmp and /dev/shm takes a file, whoever owns it."""
        places = ["/", "/etc", "/usr", "/rlm", "/rlm/image", "/rlm/session", "/dev", "/proc", "/sys"]
        found = await printed(
            sandbox,
            f"import os\nfor place in {places}:\n"
            "    try: open(place + '/planted', 'w'); print(place)\n    except OSError: pass\nprint('end')",
        )
        assert found == "end\n"

    async def test_a_host_that_lets_go_ends_the_sandbox(self, pool: Pool, data: Path) -> None:
        """The lease is the sandbox's life: when the caller's connection closes, the container is removed."""
        sandbox = await pool.acquire()
        process = container_of(sandbox)
        with engine() as client:
            assert len(containers_of(client, data)) == 1
            process._lease.close()
            await process._launcher.kill(sandbox.sandbox_id)  # waits for whoever is at it
            assert containers_of(client, data) == []
        await pool.release(sandbox)

    async def test_it_is_measured_from_outside(self, sandbox: Sandbox) -> None:
        """Memory that a cell takes shows in what the engine reports."""
        before = await container_of(sandbox).stats()
        await printed(sandbox, "big = bytearray(80 << 20); print(len(big))")
        after = await container_of(sandbox).stats()
        assert after.memory_bytes - before.memory_bytes > 60 << 20
        assert after.memory_peak_bytes >= after.memory_bytes
        assert after.cpu_s > before.cpu_s
        assert after.processes >= 3

    async def test_a_paused_sandbox_goes_on_where_it_was(self, sandbox: Sandbox, data: Path) -> None:
        """Pausing stops all of it; whoever asks something of it finds it awake, with its variables."""
        await printed(sandbox, "kept = 1; print(kept)")
        await sandbox.pause()
        with engine() as client:
            assert [found["State"] for found in containers_of(client, data)] == ["paused"]
            assert await printed(sandbox, "kept") == "1\n"
            assert not sandbox.is_paused
            await sandbox.pause()
            await sandbox.kill()
            assert containers_of(client, data) == []

    @pytest.mark.takes_long
    async def test_no_sandbox_outlives_its_deadline(self, data: Path, runtime: Runtime) -> None:
        """The launcher ends a container at the deadline in its label, whatever its host does."""
        short = DockerProvider(
            Launcher(data / "launcher.sock"), sessions=data / "sessions", image=SANDBOX_IMAGE, runtime=runtime, life_s=8
        )
        short._found = await provider_at(data, runtime).isolation()
        async with open_pool(
            short, sessions=data / "sessions", gateway_socket=None, slots=1, warm=0, template=SMALL
        ) as pool:
            sandbox = await pool.acquire()
            with anyio.fail_after(60):
                assert "137" in await container_of(sandbox).wait()
            assert not sandbox.is_running


@pytest.mark.needs_docker
class TestRunc(DockerContract):
    """The ordinary runtime."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        return "runc"

    @pytest.fixture
    def provider(self, data: Path, runtime: Runtime) -> Provider:
        return provider_at(data, runtime)

    async def test_calls_from_as_many_threads_as_can_be_had_are_answered(self, provider: Provider, data: Path) -> None:
        """A cell that has taken every thread and then calls from all of them is answered, and the sandbox lives on."""
        at_once = anyio.Event()
        waiting = 0

        async def answer(stream: anyio.abc.SocketStream) -> None:
            nonlocal waiting
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                async with stream:
                    while True:
                        request = b""
                        while b"prompts" not in request:
                            request += await stream.receive()
                        if b"first" not in request:
                            waiting += 1
                            if waiting == MAX_PARALLEL_CALLS:
                                at_once.set()
                            await at_once.wait()
                        body = b'{"items": [{"ok": true, "value": "four", "kind": "", "message": ""}]}'
                        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        gateway_socket = data / "gateway.sock"
        async with anyio.create_task_group() as tasks:
            listener = await anyio.create_unix_listener(str(gateway_socket), mode=0o666)
            tasks.start_soon(listener.serve, answer)
            async with open_pool(
                provider, sessions=data / "sessions", gateway_socket=gateway_socket, slots=1, warm=0, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                assert await printed(sandbox, _CALL_FROM_EVERY_THREAD) == "True\n"
                assert await printed(sandbox, "print('alive')") == "alive\n"
            tasks.cancel_scope.cancel()
        await listener.aclose()

    async def test_the_running_container_is_the_profile(self, sandbox: Sandbox, data: Path) -> None:
        """What the engine says of the container, and what it sees of itself, is what the profile promises."""
        with engine() as client:
            inspected: dict[str, Any] = client.inspect_container(containers_of(client, data)[0]["Id"])
        host = inspected["HostConfig"]
        assert (host["NetworkMode"], host["LogConfig"]["Type"], host["Runtime"]) == ("none", "none", "runc")
        assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"]) == (True, False, ["ALL"])
        assert host["Memory"] == host["MemorySwap"] > SMALL.memory_bytes
        assert host["PidsLimit"] > SMALL.processes
        assert [(mount["Destination"], mount["RW"]) for mount in inspected["Mounts"]] == [("/rlm/session", False)]
        assert not inspected["NetworkSettings"]["Ports"]
        look = """
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:]]
print(json.dumps([status["CapBnd"], status["CapEff"], status["NoNewPrivs"], status["Seccomp_filters"], interfaces,
                  os.getuid(), [name for name in os.listdir("/dev") if os.access("/dev/" + name, os.W_OK)]]))
"""
        bounding, effective, no_new, filters, interfaces, uid, devices = json.loads(await printed(sandbox, look))
        assert (int(bounding, 16), int(effective, 16), no_new) == (0, 0, "1")
        assert int(filters) == 3
        assert interfaces == ["lo"]
        assert uid == int(inspected["Config"]["User"].split(":")[0]) > 65535
        assert set(devices) <= {
            "full",
            "null",
            "ptmx",
            "random",
            "shm",
            "tty",
            "urandom",
            "zero",
            "fd",
            "stdin",
            "stdout",
            "stderr",
            "mqueue",
            "pts",
        }

    async def test_tmp_cannot_run_programs(self, sandbox: Sandbox) -> None:
        """A file there cannot be mapped to be executed. (gVisor does not look at that.)"""
        run_it = (
            "import mmap, os\nopen('/tmp/p', 'wb').write(bytes(4096))\nfile = open('/tmp/p', 'rb')\n"
            "mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"
        )
        assert await fails_with(sandbox, run_it) == "PermissionError"

    async def test_each_sandbox_has_a_uid_of_its_own(self, pool: Pool) -> None:
        """Two sandboxes of one launcher never share a uid."""
        sandboxes = [await pool.acquire() for _ in range(2)]
        uids = set()
        for sandbox in sandboxes:
            await sandbox.claim(generation=1, grant="g", random_seed=1)
            uids.add(await printed(sandbox, "import os; print(os.getuid())"))
            await pool.release(sandbox)
        assert len(uids) == 2

    async def test_a_thread_bomb_leaves_the_supervisor_its_threads(self, sandbox: Sandbox) -> None:
        """The kernel meets its own limit on threads before the container's, so the sandbox can still report."""
        bomb = (
            "import threading\nstop = threading.Event()\nstarted = 0\n"
            "try:\n    while started < 10_000:\n"
            "        threading.Thread(target=stop.wait, daemon=True).start(); started += 1\n"
            "except RuntimeError: pass\nprint(started < 10_000)"
        )
        assert await printed(sandbox, bomb) == "True\n"
        assert (await sandbox.stats()).kernel_lives == 1
        assert await printed(sandbox, "stop.set(); print('alive')") == "alive\n"


@pytest.mark.needs_docker
@pytest.mark.needs_gvisor
class TestRunsc(DockerContract):
    """gVisor: a kernel of its own between cells and Linux."""

    refused_of_supervisor = ("open('/proc/1/mem', 'rb')",)
    """gVisor shows environments to their uid; `test_the_environment_tells_nothing`."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        return "runsc"

    @pytest.fixture
    def provider(self, data: Path, runtime: Runtime) -> Provider:
        return provider_at(data, runtime)

    async def test_the_environment_tells_nothing(self, sandbox: Sandbox) -> None:
        """The supervisor's environment says where Python's files are and nothing else."""
        found = await printed(sandbox, "print(open('/proc/1/environ').read().split(chr(0)))")
        assert "grant" not in found
        assert str(sandbox.directory.parent) not in found
        names = {entry.partition("=")[0] for entry in ast.literal_eval(found) if entry}
        assert names == {"HOME", "HOSTNAME", "PATH", "PYTHONHASHSEED", "PYTHONPATH"}

    async def test_it_is_gvisor(self, sandbox: Sandbox, provider: Provider) -> None:
        """The kernel that a cell sees is gVisor's, and the level says that it may serve several tenants."""
        assert await printed(sandbox, "import os; print(os.uname().version)") == f"{GVISOR_BUILD}\n"
        isolation = await provider.isolation()
        assert (isolation.level, isolation.multi_tenant) == ("runsc", True)


@pytest.mark.needs_docker
@pytest.mark.needs_gvisor
@pytest.mark.anyio
async def test_a_runtime_is_not_gvisor_by_its_name(data_without_launcher: Path) -> None:
    """Where the engine's `runsc` starts another runtime, nothing is given out at that level."""
    place = data_without_launcher
    build_image()
    with (
        misnamed_runtime(place / "engine.sock") as relay,
        launcher_process(place, docker_host=f"unix://{place / 'engine.sock'}"),
    ):
        provider = DockerProvider(
            Launcher(place / "launcher.sock"), sessions=place / "sessions", image=SANDBOX_IMAGE, runtime="runsc"
        )
        with pytest.raises(SandboxRefused, match="does not run on gVisor"):
            await provider.isolation()
        assert relay.swapped == 1
        with engine() as client:
            assert containers_of(client, place) == []


CURRENT_IMAGE = OfferedImage(
    name="rlm-sandbox", present=True, protocol=str(protocol.PROTOCOL_VERSION), sources=our_sources()
)


def offer(**changes: Any) -> CapabilitiesReply:
    return CapabilitiesReply(
        engine_version="24.0",
        runtimes=changes.get("runtimes", ["runc", "runsc"]),
        seccomp=changes.get("seccomp", True),
        images=changes.get("images", [CURRENT_IMAGE]),
    )


@pytest.mark.parametrize(
    ("found", "runtime", "says"),
    [
        (offer(runtimes=["runc"]), "runsc", "install gVisor"),
        (offer(runtimes=[]), "runc", "repair"),
        (offer(seccomp=False), "runc", "no seccomp"),
        (offer(images=[OfferedImage(name="other", present=True)]), "runc", "--image rlm-sandbox"),
        (offer(images=[OfferedImage(name="rlm-sandbox", present=False)]), "runsc", "make_sandbox_image"),
        (offer(images=[OfferedImage(name="rlm-sandbox", present=True)]), "runc", "none of this service"),
        (offer(images=[CURRENT_IMAGE.model_copy(update={"protocol": "0"})]), "runc", "speaks otherwise"),
    ],
)
def test_what_is_missing_is_refused_with_what_to_do(found: CapabilitiesReply, runtime: Runtime, says: str) -> None:
    """What the engine lacks is refused by a sentence that fixes it; nothing is downgraded."""
    assert check_capabilities(offer(), runtime=runtime, image="rlm-sandbox") is None
    with pytest.raises(SandboxRefused, match=says):
        check_capabilities(found, runtime=runtime, image="rlm-sandbox")


def test_an_image_of_other_sources_is_told_of_and_used() -> None:
    """One of the same wire format is no reason to refuse, and what is to be done about it is said."""
    older = offer(images=[CURRENT_IMAGE.model_copy(update={"sources": "f" * 64})])
    said = check_capabilities(older, runtime="runc", image="rlm-sandbox")
    assert said is not None
    assert "make it anew" in said


@pytest.mark.anyio
async def test_no_launcher_is_said_in_a_sentence(data_without_launcher: Path) -> None:
    """Where no launcher listens, the provider refuses and says how to start one."""
    launcher = Launcher(data_without_launcher / "launcher.sock")
    provider = DockerProvider(launcher, sessions=data_without_launcher / "sessions", image="x", runtime="runc")
    with pytest.raises(SandboxRefused, match="no launcher answers"):
        await provider.isolation()


@pytest.fixture
def data_without_launcher() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rlm-docker-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.needs_docker
@pytest.mark.anyio
async def test_only_an_operator_makes_runc_good_enough_for_tenants(data: Path) -> None:
    """runc serves several tenants only where the operator said so, and then the details say it too."""
    arguments: dict[str, Any] = {"sessions": data / "sessions", "image": SANDBOX_IMAGE, "runtime": "runc"}
    launcher = Launcher(data / "launcher.sock")
    assert not (await provider_at(data, "runc").isolation()).multi_tenant
    trusted = await DockerProvider(launcher, trust_runc=True, **arguments).isolation()
    assert trusted.multi_tenant
    assert any("RLM_TRUST_RUNC" in line for line in trusted.details)
