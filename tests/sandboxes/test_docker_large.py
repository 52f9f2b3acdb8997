"""Contexts of a gigabyte in containers: whole, there at once, and in memory once for all who read them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import docker
import pytest

from benchmarks.memory import field_bytes
from service.sandboxes.docker_launcher import Launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.launcher.protocol import Runtime
from service.sandboxes.pool import open_pool
from tests.machine import SANDBOX_IMAGE
from tests.sandboxes.contract import SMALL, bind_mapped, printed
from tests.sandboxes.docker_machine import build_image, containers_of, engine, launcher_process

GB = 1 << 30
SESSIONS = 50
MOST_OF_A_SESSION_BYTES = 64 << 20
"""Supervisor, zygote and kernel, none of them with the context."""

pytestmark = [
    pytest.mark.needs_docker,
    pytest.mark.takes_long,
    pytest.mark.anyio,
    pytest.mark.timeout(600),
]


@pytest.fixture
def launched() -> Iterator[Path]:
    """A data directory with a launcher."""
    build_image()
    path = Path(tempfile.mkdtemp(prefix="rlm-large-"))
    path.chmod(0o755)
    with launcher_process(path):
        yield path
    shutil.rmtree(path)


def provider_at(data: Path, runtime: Runtime) -> DockerProvider:
    launcher = Launcher(data / "launcher.sock")
    return DockerProvider(launcher, sessions=data / "sessions", image=SANDBOX_IMAGE, runtime=runtime)


@pytest.mark.parametrize("runtime", ["runc", pytest.param("runsc", marks=pytest.mark.needs_gvisor)])
async def test_a_gigabyte_is_whole_and_takes_none_of_the_kernels_memory(launched: Path, runtime: Runtime) -> None:
    """A kernel of half a gigabyte finds a text of one whole, to its last character, and has room for its own."""
    async with open_pool(
        provider_at(launched, runtime),
        sessions=launched / "sessions",
        gateway_socket=None,
        slots=1,
        warm=0,
        template=SMALL,
    ) as pool:
        sandbox = await pool.acquire()
        await sandbox.claim(generation=1, grant="g", random_seed=1)
        await bind_mapped(sandbox, launched, "context", GB)
        assert await printed(sandbox, "print(len(context), context[:5], context[-3:])") == f"{GB} begin end\n"
        found = await printed(sandbox, f"mine = bytearray({SMALL.memory_bytes // 2}); print(context.find('end'))")
        assert found == f"{GB - 3}\n"
        await pool.release(sandbox)


async def test_fifty_sessions_share_one_gigabyte(launched: Path) -> None:
    """Fifty containers that have all read a text from end to end take the memory of it once, and their own."""
    async with open_pool(
        provider_at(launched, "runc"),
        sessions=launched / "sessions",
        gateway_socket=None,
        slots=SESSIONS,
        warm=0,
        template=SMALL,
    ) as pool:
        for number in range(SESSIONS):
            sandbox = await pool.acquire()
            await sandbox.claim(generation=1, grant="g", random_seed=number)
            await bind_mapped(sandbox, launched, "context", GB)
            step = 4096 if number < 2 else 1 << 16
            found = await printed(sandbox, f"print(len(context), sum(1 for _ in context[::{step}]))")
            assert found == f"{GB} {GB // step}\n"
        with engine() as client:
            taken = await anyio.to_thread.run_sync(shared_memory_of, client, launched)
    assert taken < GB + SESSIONS * MOST_OF_A_SESSION_BYTES


def shared_memory_of(client: docker.APIClient, data: Path) -> int:
    """Bytes in use by all processes of our containers; a page that several share is counted once."""
    total = 0
    for container in containers_of(client, data):
        for row in client.top(container["Id"])["Processes"]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += field_bytes(Path(f"/proc/{row[1]}/smaps_rollup").read_text(), "Pss")
    return total
