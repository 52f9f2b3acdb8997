"""What an engine that does not do what it is asked is taken for."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.sandboxes.launcher.engine import Engine, EngineFailed
from service.sandboxes.launcher.engine_faults import EngineFault, described, fault_of_answer
from tests.sandboxes.scripted_engine import scripted_engine


@pytest.mark.parametrize(
    ("status", "words", "fault"),
    [
        (404, "No such image: rlm-sandbox:latest", EngineFault.IMAGE_MISSING),
        (404, "No such container: 0123", EngineFault.MISSING),
        (400, "Unknown runtime specified runsc", EngineFault.RUNTIME_MISSING),
        (400, "unknown or invalid runtime name: runsc", EngineFault.RUNTIME_MISSING),
        (409, 'Conflict. The container name "/rlm-sbx_1" is already in use by container "ab"', EngineFault.NAME_TAKEN),
        (500, "OCI runtime create failed: fork: cannot allocate memory: unknown", EngineFault.OUT_OF_MEMORY),
        (500, "something else", EngineFault.FAILED),
        (409, "removal of container 1 is already in progress", EngineFault.FAILED),
        (500, "", EngineFault.FAILED),
    ],
)
def test_refusals_are_told_apart(status: int, words: str, fault: EngineFault) -> None:
    """The engine's words and status say which fault it is."""
    assert fault_of_answer(status, words) is fault


@pytest.mark.parametrize("fault", EngineFault)
def test_each_fault_is_one_line_that_says_something(fault: EngineFault) -> None:
    """Whatever the engine said, the line is one, bounded, and never empty."""
    for said in ("", "a\nb\x1b" + "x" * 10_000):
        line = described(fault, host="unix:///run/docker.sock", said=said)
        assert line
        assert "\n" not in line
        assert len(line) < 700


@pytest.mark.anyio
async def test_an_engine_that_refuses_the_connection_is_absent_not_silent() -> None:
    """Over TCP too, where the client calls a refused connection a time-out: nobody is told to restart what is not
    there."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(EngineFailed) as failed:
            await Engine(f"tcp://127.0.0.1:{nobody.getsockname()[1]}").facts()
    assert failed.value.fault is EngineFault.ABSENT


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other uids may enter, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="rlm-engine-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


async def fault_at(path: Path, **given: float) -> EngineFault:
    with pytest.raises(EngineFailed) as failed:
        await Engine(f"unix://{path}", **given).facts()
    return failed.value.fault


@pytest.mark.anyio
async def test_no_engine_is_told_from_one_that_is_closed_to_us(place: Path) -> None:
    """A socket that is not there, and one that nobody listens at, are no engine."""
    assert await fault_at(place / "none.sock") is EngineFault.ABSENT
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "s"))
    assert await fault_at(place / "s") is EngineFault.ABSENT


@pytest.mark.needs_root
def test_a_socket_that_is_not_ours_to_open_is_said(place: Path) -> None:
    """Permission denied is told from absence: in a child that is nobody, against a socket of root's."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "s"))
        bound.listen()
        (place / "s").chmod(0o600)
        child = os.fork()
        if child == 0:
            told = 1
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                told = _as_nobody(place / "s")
            finally:
                os._exit(told)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _as_nobody(path: Path) -> int:
    engine = Engine(f"unix://{path}")
    try:
        with engine.translated():
            engine._clients()
    except EngineFailed as failed:
        return 0 if failed.fault is EngineFault.DENIED else 2
    return 3


@pytest.mark.anyio
async def test_a_silent_engine_is_given_up(place: Path) -> None:
    """One that takes connections and says nothing is called silent once the deadline of a question is over."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "s"))
        listening.listen()
        assert await fault_at(place / "s", question_deadline_s=0.2) is EngineFault.SILENT
        with pytest.raises(EngineFailed) as failed:
            await Engine(f"unix://{place / 's'}", question_deadline_s=0.2).remove("0123")
    assert failed.value.fault is EngineFault.SILENT


@pytest.mark.anyio
async def test_what_runs_already_is_woken_and_what_is_gone_is_not(place: Path) -> None:
    """An unpause that is repeated, as its asker may not have heard of the first, is no fault; one of a container that
    has ended is."""
    with scripted_engine(place) as scripted:
        engine = Engine(f"unix://{place / 'engine.sock'}")
        try:
            (place / "session").mkdir()
            profile = {"HostConfig": {"Mounts": [{"Source": str(place / "session")}]}, "Labels": {}}
            container_id = await engine.create("rlm-x", profile)
            await engine.pause(container_id)
            for _ in range(2):
                await engine.unpause(container_id)
            assert not scripted.paused
            scripted.removed.add(container_id)
            with pytest.raises(EngineFailed, match="not paused"):
                await engine.unpause(container_id)
        finally:
            assert engine._found is not None
            engine._found.asking.close()
            engine._found.working.close()
