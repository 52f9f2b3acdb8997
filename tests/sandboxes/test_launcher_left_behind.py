"""What a launcher leaves running and what not, when it or those who asked it die."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import docker
import docker.errors
import pytest

from service.ids import SandboxId, new_id
from service.sandboxes.directory import create_session_directory
from service.sandboxes.docker_launcher import Launcher, open_launcher
from service.sandboxes.docker_provider import ContainerProcess, DockerProvider
from service.sandboxes.launcher.protocol import (
    AttachRequest,
    KillRequest,
    PauseRequest,
    ReapRequest,
    StatsRequest,
    UnpauseRequest,
)
from service.sandboxes.pool import open_pool
from service.sandboxes.reaper import reap_orphans
from tests.machine import DOCKER_HOST, ROOT, SANDBOX_IMAGE
from tests.sandboxes.contract import SMALL, printed
from tests.sandboxes.docker_machine import build_image, containers_of, engine, launcher_process
from tests.sandboxes.launcher_clients import ask, children, place_for_launcher, told_by_proc


@pytest.fixture
def data() -> Iterator[Path]:
    with place_for_launcher() as path:
        yield path


@contextlib.contextmanager
def owned_directory(sessions: Path, sandbox_id: str) -> Iterator[None]:
    """A session directory with a living owner."""
    directory = create_session_directory(sessions, SandboxId(sandbox_id))
    try:
        yield
    finally:
        directory.remove()


def made_by_hand(
    client: docker.APIClient, data: Path, sandbox_id: str, deadline_s: int, sessions: str | None = None
) -> str:
    """A container like the launcher's, that waits."""
    labels = {"rlm.sandbox": sandbox_id, "rlm.sessions": sessions or str((data / "sessions").resolve())}
    labels["rlm.deadline"] = str(deadline_s)
    command = ["-S", "-c", "import signal; signal.pause()"]
    made = client.create_container(
        SANDBOX_IMAGE,
        entrypoint=["/rlm/python"],
        command=command,
        labels=labels,
        network_disabled=True,
        name=f"rlm-{sandbox_id}-{data.name}",
    )
    client.start(made["Id"])
    return str(made["Id"])


@pytest.fixture(scope="module")
def image() -> None:
    build_image()


@pytest.mark.needs_docker
@pytest.mark.usefixtures("image")
class TestLeftBehind:
    """What a launcher that is started anew, or whose callers die, does about what runs."""

    def test_a_start_reconciles(self, data: Path) -> None:
        """What is past its deadline or has no living owner goes; a living owner's and a stranger's stay."""
        alive, dead, late, foreign = (SandboxId(new_id("sbx")) for _ in range(4))
        (data / "sessions").mkdir()
        owned = [create_session_directory(data / "sessions", each) for each in (alive, late)]
        create_session_directory(
            data / "sessions", dead
        )._owner_lock = None  # closed below, as the death of its owner would
        for descriptor in os.listdir("/proc/self/fd"):
            if os.path.realpath(f"/proc/self/fd/{descriptor}") == str((data / "sessions").resolve() / f"{dead}.owner"):
                os.close(int(descriptor))
        later, before = int(time.time()) + 3600, int(time.time()) - 1
        with engine() as client:
            ids = {
                alive: made_by_hand(client, data, alive, later),
                dead: made_by_hand(client, data, dead, later),
                late: made_by_hand(client, data, late, before),
                foreign: made_by_hand(client, data, foreign, before, "/somebody/else"),
            }
            try:
                with launcher_process(data):
                    for gone in (dead, late):
                        wait_until_removed(client, ids[gone])
                    assert client.inspect_container(ids[alive])["State"]["Running"]
                    assert client.inspect_container(ids[foreign])["State"]["Running"]
                # It ends with its stdin, and so does what it leased; this one may be another launcher's.
                assert client.inspect_container(ids[alive])["State"]["Running"]
            finally:
                for left in client.containers(all=True, filters={"name": data.name}):
                    client.remove_container(left["Id"], force=True)
        for directory in owned:
            directory.remove()

    def test_no_container_outlives_a_killed_service(self, data: Path) -> None:
        """kill -9 of the service ends its launcher and its containers."""
        done = subprocess.run(
            [sys.executable, "-c", _HOST, str(data), SANDBOX_IMAGE, DOCKER_HOST],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            cwd=ROOT,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "up" in done.stdout
        with engine() as client:
            for container in containers_of(client, data):
                wait_until_removed(client, container["Id"])
            assert containers_of(client, data) == []

    @pytest.mark.anyio
    async def test_what_a_dead_owner_left_is_reaped(self, data: Path) -> None:
        """Whoever finds a session's owner dead can have its container ended, though it is not his."""
        dead, later = SandboxId(new_id("sbx")), int(time.time()) + 3600
        provider = DockerProvider(
            Launcher(data / "launcher.sock"), sessions=data / "sessions", image=SANDBOX_IMAGE, runtime="runc"
        )
        with launcher_process(data), engine() as client:
            owned = create_session_directory(data / "sessions", dead)
            container_id = made_by_hand(client, data, dead, later)
            assert await reap_orphans(provider, data / "sessions") == 0
            assert owned._owner_lock is not None
            os.close(owned._owner_lock)  # as the death of its owner would
            owned._owner_lock = None
            assert await reap_orphans(provider, data / "sessions") == 1
            wait_until_removed(client, container_id)
            assert containers_of(client, data) == []

    @pytest.mark.anyio
    async def test_what_another_owner_started_is_not_there(self, data: Path) -> None:
        """Another client of a launcher can neither measure, pause, attach, end nor reap a sandbox, and is answered as
        for one that never was, also after the launcher was started anew; its owner can all the while."""
        path, sessions = data / "launcher.sock", data / "sessions"
        owner, other = Launcher(path), Launcher(path)
        provider = DockerProvider(owner, sessions=sessions, image=SANDBOX_IMAGE, runtime="runc")
        absent = new_id("sbx")

        async def answers(sandbox_id: str) -> list[str]:
            requests = [
                request(sandbox_id=sandbox_id, owner_key=other.owner_key).model_dump_json()
                for request in (StatsRequest, PauseRequest, UnpauseRequest, AttachRequest, KillRequest)
            ]
            requests.append(ReapRequest(sandbox_id=sandbox_id).model_dump_json())
            said = [await anyio.to_thread.run_sync(ask, path, f"{request}\n".encode()) for request in requests]
            return [line.decode().replace(sandbox_id, "ID") for line in said]

        with launcher_process(data) as process:
            async with open_pool(
                provider, sessions=sessions, gateway_socket=None, slots=1, warm=0, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                with owned_directory(sessions, absent):
                    assert await answers(sandbox.sandbox_id) == await answers(absent)
                    process.kill()
                    process.wait()
                    with launcher_process(data):
                        assert await answers(sandbox.sandbox_id) == await answers(absent)
                        stream = await owner.attached(sandbox.sandbox_id)
                        assert stream is not None
                        assert (await owner.stats(sandbox.sandbox_id)).processes >= 3
                        assert await printed(sandbox, "print(1 + 1)") == "2\n"
                        await pool.release(sandbox)
                        stream.close()

    @pytest.mark.anyio
    async def test_sandboxes_outlive_their_launcher(self, data: Path) -> None:
        """kill -9 of the launcher costs no variable; the next one is asked for the lease, and can kill."""
        async with open_launcher(
            socket_path=data / "launcher.sock", sessions=data / "sessions", image=SANDBOX_IMAGE, docker_host=DOCKER_HOST
        ) as launcher:
            provider = DockerProvider(launcher, sessions=data / "sessions", image=SANDBOX_IMAGE, runtime="runc")
            async with open_pool(
                provider, sessions=data / "sessions", gateway_socket=None, slots=1, warm=1, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                await printed(sandbox, "kept = 7; print(kept)")
                process = sandbox._parts.process
                assert isinstance(process, ContainerProcess)
                launchers = [pid for pid in children() if b"service.sandboxes.launcher" in told_by_proc(pid, "cmdline")]
                assert len(launchers) == 1
                os.kill(launchers[0], signal.SIGKILL)
                assert await printed(sandbox, "kept") == "7\n"
                stream = await launcher.attached(sandbox.sandbox_id)  # as a lease does when its launcher is gone
                assert stream is not None
                assert (await process.stats()).processes >= 3
                assert sandbox.is_running
                await pool.release(sandbox)
                stream.close()
            with engine() as client:
                assert containers_of(client, data) == []

    @pytest.mark.anyio
    async def test_a_paused_sandbox_outlives_its_launcher(self, data: Path) -> None:
        """It is woken by the next launcher, whether that is up already or is waited for, with its variables."""
        where = {"socket_path": data / "launcher.sock", "sessions": data / "sessions"}
        async with open_launcher(**where, image=SANDBOX_IMAGE, docker_host=DOCKER_HOST) as launcher:
            provider = DockerProvider(launcher, sessions=data / "sessions", image=SANDBOX_IMAGE, runtime="runc")
            async with open_pool(
                provider, sessions=data / "sessions", gateway_socket=None, slots=1, warm=1, template=SMALL
            ) as pool:
                sandbox = await pool.acquire()
                await sandbox.claim(generation=1, grant="g", random_seed=1)
                await printed(sandbox, "kept = 7; print(kept)")
                await sandbox.pause()
                assert sandbox.is_paused
                launchers = [pid for pid in children() if b"service.sandboxes.launcher" in told_by_proc(pid, "cmdline")]
                assert len(launchers) == 1
                os.kill(launchers[0], signal.SIGKILL)
                assert await printed(sandbox, "kept") == "7\n"
                await pool.release(sandbox)
            with engine() as client:
                assert containers_of(client, data) == []


def wait_until_removed(client: docker.APIClient, container_id: str) -> None:
    """On the engine's word, not on the clock."""
    with contextlib.suppress(docker.errors.NotFound):
        client.wait(container_id, timeout=60, condition="removed")


_HOST = """
import os, sys
from pathlib import Path
import anyio
from service.sandboxes.docker_launcher import open_launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.pool import open_pool
from tests.sandboxes.contract import SMALL

async def main(data, image, docker_host):
    sessions = data / "sessions"
    where = {"socket_path": data / "l.sock", "sessions": sessions}
    async with open_launcher(**where, image=image, docker_host=docker_host) as launcher:
        provider = DockerProvider(launcher, sessions=sessions, image=image, runtime="runc")
        async with open_pool(provider, sessions=sessions, gateway_socket=None, slots=2, warm=0, template=SMALL) as pool:
            await pool.acquire()
            await pool.acquire()
            print("up", flush=True)
            os.kill(os.getpid(), 9)

anyio.run(main, Path(sys.argv[1]), sys.argv[2], sys.argv[3])
"""
