"""The launcher and a directory of sessions that its client, of fewer rights, owns and may change at any moment."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.ids import new_id
from service.sandboxes.directory import orphaned
from service.sandboxes.launcher.protocol import Runtime
from service.sandboxes.launcher.staging import PLACE, NotStaged, Stage, check_seen, opened_session
from tests.machine import ROOT, SANDBOX_IMAGE
from tests.sandboxes.docker_machine import build_image, launcher_process


@pytest.fixture
def data() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rlm-launcher-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def image() -> None:
    build_image()


@pytest.mark.needs_root
class TestHostileDirectory:
    """What the client puts into its directory of sessions is opened by a launcher of more rights."""

    @pytest.mark.parametrize("planted", ["link to nothing", "link to a file", "pipe", "foreign file", "directory"])
    def test_only_the_clients_own_plain_owner_file_is_opened(self, data: Path, planted: str) -> None:
        """No owner file that is a link, a pipe, a directory or another uid's is created, opened or waited for."""
        session = data / new_id("sbx")
        session.mkdir()
        owner, bait = session.with_name(session.name + ".owner"), data / "bait"
        match planted:
            case "link to nothing":
                owner.symlink_to(bait)
            case "link to a file":
                bait.touch()
                os.chown(bait, 65534, 65534)
                owner.symlink_to(bait)
            case "pipe":
                os.mkfifo(owner)
                os.chown(owner, 65534, 65534)
            case "foreign file":
                owner.touch()
            case _:
                owner.mkdir()
        there = bait.exists()
        with orphaned(session, owner_uid=65534) as is_orphan:
            assert not is_orphan
        assert bait.exists() == there

    def test_a_link_in_the_place_of_all_sessions_is_not_followed(self, data: Path) -> None:
        """Where the directory of sessions is a link, no session in it is looked at."""
        (data / "elsewhere" / "sbx_1").mkdir(parents=True)
        (data / "sessions").symlink_to(data / "elsewhere")
        with orphaned(data / "sessions" / "sbx_1") as is_orphan:
            assert not is_orphan

    def test_the_owner_file_of_a_dead_client_makes_an_orphan(self, data: Path) -> None:
        """The client's own file, which nobody holds, does; a directory without any does; nothing there does not."""
        session = data / new_id("sbx")
        with orphaned(session, owner_uid=65534) as is_orphan:
            assert not is_orphan
        session.mkdir()
        with orphaned(session, owner_uid=65534) as is_orphan:
            assert is_orphan
        assert os.listdir(data) == [session.name]
        session.with_name(session.name + ".owner").touch()
        os.chown(session.with_name(session.name + ".owner"), 65534, 65534)
        with orphaned(session, owner_uid=65534) as is_orphan:
            assert is_orphan


@pytest.mark.needs_docker
class TestStaging:
    """What the engine is told to mount, where the client could swap the path that it names."""

    def test_what_was_opened_is_what_is_mounted(self, data: Path) -> None:
        """A session directory that is swapped for a link after it was looked at is mounted all the same, not the
        link's target; and no mount is left."""
        session, elsewhere = data / new_id("sbx"), data / "elsewhere"
        session.mkdir()
        elsewhere.mkdir()
        stage = Stage(data / "stage")
        with opened_session(data, session.name, os.geteuid()) as opened:
            session.rename(data / "away")
            session.symlink_to(elsewhere)
            with stage.mounted(opened) as path:
                assert path.samefile(data / "away")
                assert str(data / "stage") in Path("/proc/self/mountinfo").read_text()
        stage.close()
        assert str(data / "stage") not in Path("/proc/self/mountinfo").read_text()
        assert os.listdir(data / "stage") == []

    def test_a_link_a_file_and_a_foreign_directory_are_no_session(self, data: Path) -> None:
        """Only a directory of the client's own is opened."""
        link, file, foreign = (data / new_id("sbx") for _ in range(3))
        link.symlink_to("/etc")
        file.touch()
        foreign.mkdir()
        for planted in (link, file, foreign):
            with (
                pytest.raises(NotStaged, match="session directory"),
                opened_session(data, planted.name, 65534),
            ):
                pass

    def test_what_a_killed_launcher_left_mounted_is_taken_away(self, data: Path) -> None:
        """The next launcher unmounts what one that was killed left, and not what a living one needs."""
        session = data / new_id("sbx")
        session.mkdir()
        (session / "kept").touch()
        with (
            opened_session(data, session.name, os.geteuid()) as opened,
            contextlib.closing(Stage(data / "stage")) as living,
            living.mounted(opened) as path,
        ):
            die = (
                "import os, sys; from pathlib import Path; from service.sandboxes.launcher.staging import Stage\n"
                "with Stage(Path(sys.argv[1])).mounted(int(sys.argv[2])): os.kill(os.getpid(), 9)"
            )
            words = [sys.executable, "-c", die, str(data / "stage"), str(opened)]
            assert subprocess.run(words, cwd=ROOT, pass_fds=[opened], check=False).returncode == -signal.SIGKILL
            assert Path("/proc/self/mountinfo").read_text().count(str(data / "stage")) == 2
            with contextlib.closing(Stage(data / "stage")) as after, after.mounted(opened):
                assert Path("/proc/self/mountinfo").read_text().count(str(data / "stage")) == 2
                assert (path / "kept").exists()
        assert (session / "kept").exists()
        assert os.listdir(data / "stage") == []

    def test_a_process_with_another_directory_before_it_is_noticed(self, data: Path) -> None:
        """An engine that mounted something else than the session directory is told from one that did not, and from a
        process that has ended."""
        seen = data / "root" / "rlm" / "session"
        seen.mkdir(parents=True)
        inside = "import os, sys; os.chroot(sys.argv[1]); print('in', flush=True); sys.stdin.read()"
        with (
            opened_session(seen.parent, "session", os.geteuid()) as session,
            opened_session(data, "root", os.geteuid()) as other,
            subprocess.Popen(
                [sys.executable, "-c", inside, str(data / "root")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
            check_seen(process.pid, session)
            with pytest.raises(NotStaged, match="one mount namespace"):
                check_seen(process.pid, other)
            process.stdin.close()
            process.wait()
            check_seen(process.pid, other)

    @pytest.mark.usefixtures("image")
    @pytest.mark.parametrize("runtime", ["runc", pytest.param("runsc", marks=pytest.mark.needs_gvisor)])
    def test_a_client_of_another_uid_gets_working_sandboxes(self, data: Path, runtime: Runtime) -> None:
        """With the launcher as root and the client another uid, cells run, and nothing is mounted once they do."""
        words = [sys.executable, "-c", _CLIENT, str(data), SANDBOX_IMAGE, runtime]
        with launcher_process(data, "--client-uid", "65534"):
            os.chown(data / "sessions", 65534, 65534)
            done = subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True, timeout=100)
            assert done.stdout.endswith("\n2\n\n"), done.stderr[-3000:]
            assert str(PLACE) not in Path("/proc/self/mountinfo").read_text()


_CLIENT = """
import os, sys
from pathlib import Path
import anyio, anyio._backends._asyncio
from service.sandboxes.docker_launcher import Launcher
from service.sandboxes.docker_provider import DockerProvider
from service.sandboxes.pool import open_pool
from tests.sandboxes.contract import SMALL, printed

async def main(data, image, runtime):
    sessions = data / "sessions"
    provider = DockerProvider(Launcher(data / "launcher.sock"), sessions=sessions, image=image, runtime=runtime)
    async with open_pool(
        provider, sessions=sessions, gateway_socket=None, slots=1, warm=0, template=SMALL
    ) as pool:
        sandbox = await pool.acquire()
        await sandbox.claim(generation=1, grant="g", random_seed=1)
        print(await printed(sandbox, "print(1 + 1)"))
        await pool.release(sandbox)

os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
anyio.run(main, Path(sys.argv[1]), sys.argv[2], sys.argv[3])
"""
