"""The session directory: what it lets in, and who owns it."""

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest, RlmServiceError
from service.ids import SandboxId, new_id
from service.sandboxes.directory import (
    ProcessRecord,
    SessionDirectory,
    create_session_directory,
    orphaned,
    read_process_record,
    sessions_in,
    write_process_record,
)
from service.sandboxes.process_provider import ProcessProvider
from service.sandboxes.processes import boot_id, identify
from service.sandboxes.reaper import reap_orphans
from service.sandboxes.socket_path import short_path
from tests.lacking import WITHOUT_LINUX


def new_sandbox_id() -> SandboxId:
    return SandboxId(new_id("sbx"))


def test_a_context_is_the_blob_itself_not_a_copy(data: Path) -> None:
    """A linked context is the same file, again and again."""
    blob = data / "blob"
    blob.write_bytes(b"content")
    directory = create_session_directory(data / "sessions", new_sandbox_id())
    directory.link_contexts({"a" * 64: blob})
    directory.link_contexts({"a" * 64: blob})
    assert os.path.samefile(blob, directory.path / "contexts" / ("a" * 64))
    directory.remove()
    assert blob.read_bytes() == b"content"


def test_one_name_never_stands_for_two_blobs(data: Path) -> None:
    """A name that is taken by another blob is refused."""
    for name in ("one", "two"):
        (data / name).write_text(name)
    directory = create_session_directory(data / "sessions", new_sandbox_id())
    directory.link_contexts({"x": data / "one"})
    with pytest.raises(BadRequest, match="another file"):
        directory.link_contexts({"x": data / "two"})
    directory.remove()


@given(st.text(max_size=20) | st.sampled_from(["..", ".", "", "a/b", "/etc/passwd", "a\0b", "a\n", "-rf", "x" * 300]))
def test_only_bare_names_become_links(name: str) -> None:
    """A name with a separator, a leading dot or anything unusual never reaches the file system."""
    starts_plain = name[:1].isalnum() or name[:1] == "_"
    if starts_plain and name.isascii() and all(c.isalnum() or c in "._-" for c in name) and len(name) <= 200:
        return
    with pytest.raises(BadRequest, match="bare file name"):
        SessionDirectory(Path("/nonexistent"), -1).link_contexts({name: Path("/nonexistent/blob")})


def test_a_live_owner_is_never_reaped(data: Path) -> None:
    """While its owner lives a session directory is no orphan, even for the owner's own process."""
    directory = create_session_directory(data / "sessions", new_sandbox_id())
    assert anyio.run(reap_orphans, ProcessProvider(data / "runtime"), data / "sessions") == 0
    assert directory.path.exists()
    directory.remove()
    assert os.listdir(data / "sessions") == []


_DIE_AS_OWNER = """
import os, subprocess, sys
from pathlib import Path
from service.ids import SandboxId
from service.sandboxes.directory import ProcessRecord, create_session_directory, write_process_record
from service.sandboxes.processes import boot_id, identify
directory = create_session_directory(Path(sys.argv[1]), SandboxId(sys.argv[2]))
child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=-3, stderr=-3)
it = identify(child.pid)
write_process_record(directory.path, ProcessRecord(boot_id=boot_id(), processes=((it.pid, it.started),)))
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_replica_left_is_ended_and_removed(data: Path) -> None:
    """After kill -9 of its owner, a sandbox's process is killed and nothing of its directory is left."""
    sessions = data / "sessions"
    owner = subprocess.run(
        [sys.executable, "-c", _DIE_AS_OWNER, str(sessions), new_sandbox_id()], capture_output=True, check=False
    )
    pid = int(owner.stdout)
    assert identify(pid) is not None
    assert anyio.run(reap_orphans, ProcessProvider(data / "runtime"), sessions) == 1
    assert identify(pid) is None
    assert os.listdir(sessions) == []


def test_a_pid_that_came_round_again_is_left_alone(data: Path) -> None:
    """A process with a recorded pid but another start time, or of another boot, is not touched."""
    sessions = data / "sessions"
    sessions.mkdir()
    me = identify(os.getpid())
    assert me is not None
    for record in (
        ProcessRecord(boot_id=boot_id(), processes=((me.pid, me.started - 1),)),
        ProcessRecord(boot_id="another boot", processes=((me.pid, me.started),)),
    ):
        session = sessions / new_sandbox_id()
        session.mkdir()
        write_process_record(session, record)
        assert anyio.run(reap_orphans, ProcessProvider(data / "runtime"), sessions) == 1
    assert sessions_in(sessions) == []


def test_an_unreadable_process_record_is_none(data: Path) -> None:
    """Garbage where the process record should be names no process."""
    session = data / new_sandbox_id()
    session.with_name(session.name + ".process").write_bytes(b'{"boot_id": 1, "processes": [[1]]}')
    assert read_process_record(session) is None


def test_two_replicas_never_own_one_orphan(data: Path) -> None:
    """An orphan that one replica is reaping is no orphan to another."""
    session = data / new_sandbox_id()
    session.mkdir()
    with orphaned(session) as mine, orphaned(session) as theirs:
        assert (mine, theirs) == (True, False)


_OWNED = """
import os, sys
from pathlib import Path
from service.sandboxes.directory import create_session_directory, orphaned
made = create_session_directory(Path(sys.argv[1]), sys.argv[2])
owner = made.path.with_name(made.path.name + ".owner")
def tell():
    with orphaned(made.path) as is_orphaned:
        print(is_orphaned)
tell()
os.close(made._owner_lock)
tell()
owner.rename(owner.with_name("elsewhere"))
owner.symlink_to("elsewhere")
tell()
owner.unlink()
os.mkfifo(owner)
tell()
"""


def test_ownership_needs_nothing_of_linux(data: Path) -> None:
    """Without a way to open a file for looking only: a living owner is respected, a dead one is found, a link is not
    followed and a pipe is not waited for."""
    command = [sys.executable, "-c", WITHOUT_LINUX + _OWNED, str(data / "sessions"), new_sandbox_id()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(), done.stderr) == (["False", "True", "False", "False"], "")


def test_a_socket_is_reached_however_deep_on_linux_only(data: Path) -> None:
    """Through its open directory there; on macOS by its own path, or a sentence says that this is too long."""
    deep = data / ("d" * 200)
    deep.mkdir()
    with short_path(deep, "s", "linux") as path:
        assert os.path.samefile(Path(path).parent, deep)
        assert len(path) < 100
    with short_path(data, "s", "darwin") as path:
        assert path == str(data / "s")
    with (
        pytest.raises(RlmServiceError, match="use a data directory with a shorter path"),
        short_path(deep, "s", "darwin"),
    ):
        pass
