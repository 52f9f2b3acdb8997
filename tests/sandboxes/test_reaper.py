"""What ends the sandboxes of a replica that is dead."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from service.ids import SandboxId, new_id
from service.sandboxes.directory import SessionDirectory, create_session_directory
from service.sandboxes.levels import LevelName
from service.sandboxes.opening import open_sandbox
from service.sandboxes.process_provider import ProcessProvider
from service.sandboxes.processes import descendants, identify, is_alive
from service.sandboxes.reaper import keep_reaping, reap_orphans
from tests.sandboxes.contract import SMALL, run
from tests.sandboxes.scripted import ScriptedProvider

pytestmark = pytest.mark.anyio


def orphan(directory: SessionDirectory) -> None:
    """What the operating system does to a replica's directories when the replica dies."""
    assert directory._owner_lock is not None
    os.close(directory._owner_lock)
    directory._owner_lock = None


@pytest.mark.needs_bwrap
async def test_a_sandbox_whose_replica_died_is_ended_with_all_it_had(data: Path, runtime: Path) -> None:
    """Reaping a running sandbox ends its processes, removes its directory, and leaves alone one that is owned."""
    provider = ProcessProvider(runtime, permitted=[LevelName.NAMESPACES])
    async with anyio.create_task_group() as tasks:
        orphaned, owned = [
            await open_sandbox(tasks, provider, SMALL, sessions=data / "s", gateway_socket=None, hash_seed=1)
            for _ in range(2)
        ]
        await orphaned.claim(generation=1, grant="g", random_seed=1)
        await run(orphaned, "import os, time\nif os.fork() == 0: time.sleep(1000)")
        root = identify(orphaned._parts.process.pids[0])  # type: ignore[attr-defined]
        assert root is not None
        processes = [root, *descendants(root.pid)]
        assert len(processes) >= 4
        orphan(orphaned._parts.directory)
        assert await reap_orphans(provider, data / "s") == 1
        assert [left for left in processes if is_alive(left)] == []
        assert {path.name.partition(".")[0] for path in (data / "s").iterdir()} == {owned.sandbox_id}
        assert await reap_orphans(provider, data / "s") == 0
        assert owned.is_running
        for sandbox in (orphaned, owned):
            await sandbox.kill()
    assert list((data / "s").iterdir()) == []


@dataclass(slots=True, kw_only=True)
class FailsAtFirst(ScriptedProvider):
    """A provider on a file system that fails once."""

    reaped: list[Path] = field(default_factory=list)

    async def reap(self, directory: Path) -> None:
        self.reaped.append(directory)
        if len(self.reaped) == 1:
            raise OSError("the disk is tired")


async def test_an_orphan_that_fails_holds_up_no_other(data: Path) -> None:
    """Where the file system fails one orphan, the others of the round are reaped, and that one goes in the next."""
    sessions = data / "sessions"
    for _ in range(3):
        orphan(create_session_directory(sessions, SandboxId(new_id("sbx"))))
    async with anyio.create_task_group() as tasks:
        provider = FailsAtFirst(tasks=tasks)
        assert await reap_orphans(provider, sessions) == 2
        assert len(set(provider.reaped)) == 3
        assert await reap_orphans(provider, sessions) == 1
    assert list(sessions.iterdir()) == []


async def test_reaping_goes_on_after_a_failure(data: Path) -> None:
    """A round that the file system fails is logged and tried again at the interval, until the orphan is gone; one
    that appears later goes too."""
    sessions = data / "sessions"
    first = create_session_directory(sessions, SandboxId(new_id("sbx")))
    orphan(first)
    async with anyio.create_task_group() as tasks:
        provider = FailsAtFirst(tasks=tasks)
        reaping = anyio.CancelScope()

        async def reap() -> None:
            with reaping:
                await keep_reaping(provider, sessions, interval_s=0.001)

        tasks.start_soon(reap)
        with anyio.fail_after(20):
            while list(sessions.iterdir()):
                await anyio.lowlevel.checkpoint()
            assert provider.reaped == [first.path] * 2
            orphan(create_session_directory(sessions, SandboxId(new_id("sbx"))))
            while list(sessions.iterdir()):
                await anyio.lowlevel.checkpoint()
        reaping.cancel()
    assert len(provider.reaped) == 3
