"""What is told of processes: by /proc, and by ps, which is all that macOS has. Both are asked about the same ones."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest

from service.sandboxes.port import SandboxStartFailed
from service.sandboxes.process_table import Identity, ProcessTable, ProcTable, PsTable, read_ps_line, table_of
from service.sandboxes.processes import boot_id, descendants, identify, is_alive, kill_tree, measured, send
from tests.lacking import WITHOUT_LINUX

_TREE = """
import subprocess, sys, time
if (below := int(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(below - 1), sys.argv[2]])
print("ready", flush=True)
time.sleep(600)
"""
"""A process with as many below it, one below the other, as it is told."""


@pytest.fixture(params=[ProcTable, pytest.param(PsTable, marks=pytest.mark.needs_ps)])
def table(request: pytest.FixtureRequest) -> ProcessTable:
    made: ProcessTable = request.param()
    return made


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[bytes]]:
    """Three processes, one below the other."""
    root = subprocess.Popen([sys.executable, "-c", _TREE, "2", _TREE], stdout=subprocess.PIPE)
    assert root.stdout is not None
    assert [root.stdout.readline() for _ in range(3)] == [b"ready\n"] * 3
    below = descendants(root.pid)
    yield root
    for identity in below:
        send(identity, signal.SIGKILL)
    root.kill()
    root.wait()
    root.stdout.close()


def test_a_tree_is_seen_and_killed_whole(table: ProcessTable, tree: subprocess.Popen[bytes]) -> None:
    """All below a process are found, and none of them runs once the tree was killed."""
    root = identify(tree.pid, table)
    assert root is not None
    below = descendants(tree.pid, table)
    assert [identity.pid for identity in below] == [identity.pid for identity in descendants(tree.pid, ProcTable())]
    assert len(below) == 2
    assert anyio.run(kill_tree, root, table)
    assert not [identity for identity in (root, *below) if is_alive(identity, table)]
    assert not send(root, signal.SIGKILL, table)
    assert anyio.run(kill_tree, root, table)


def test_another_process_under_an_old_number_is_not_touched(table: ProcessTable, tree: subprocess.Popen[bytes]) -> None:
    """What was started at another time is another process, whatever its pid: it gets no signal and nobody waits for
    it."""
    found = identify(tree.pid, table)
    assert found is not None
    earlier = replace(found, started=found.started - 500)
    assert not send(earlier, signal.SIGKILL, table)
    assert anyio.run(kill_tree, earlier, table)
    assert is_alive(found, table)
    assert identify(2**22 - 2, table) is None
    assert not is_alive(Identity(pid=2**22 - 2, started=0), table)


def test_what_has_ended_is_not_there(table: ProcessTable) -> None:
    """Of a process whose status nobody has asked for yet there is nothing to identify, and nothing to wait for."""
    ended = subprocess.Popen([sys.executable, "-c", "print('x')"], stdout=subprocess.PIPE)
    identity = Identity(pid=ended.pid, started=0)
    assert ended.stdout is not None
    with contextlib.closing(ended.stdout) as output:
        assert output.read() == b"x\n"
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert identify(ended.pid, table) is None
    assert not send(identity, signal.SIGTERM, table)
    ended.wait()
    assert table.look_at(ended.pid) is None


def test_what_a_tree_uses_is_told(table: ProcessTable, tree: subprocess.Popen[bytes]) -> None:
    """Three interpreters have taken memory and some time; of none there is nothing. The boot has a name."""
    found = measured([tree.pid], table)
    assert found.memory_peak_bytes > 1 << 20
    assert found.cpu_s >= 0
    nothing = measured([], table)
    assert (nothing.cpu_s, nothing.memory_peak_bytes) == (0, 0)
    assert boot_id(table)


@pytest.mark.parametrize(
    ("line", "cpu_s", "has_ended"),
    [
        ("    1     0 Ss   Fri Nov 20 11:13:14 2026     0:01.23   9000", 1.23, False),
        ("  501     1 S+   Sun Jan  4 01:02:03 2026  1563:04.50 123456", 93_784.5, False),
        ("12345   501 Z    Thu Nov 19 00:00:00 2026    00:00:07      0", 7.0, True),
        ("12345   501 R    Thu Nov 19 00:00:00 2026 2-03:04:05      12", 183_845.0, False),
    ],
    ids=["macOS", "macOS, long", "Linux, ended", "Linux, long"],
)
def test_lines_of_ps_are_read(line: str, cpu_s: float, has_ended: bool) -> None:
    """As macOS and as Linux write them."""
    seen = read_ps_line(line)
    fields = line.split()
    assert (seen.identity.pid, seen.parent, seen.memory_bytes) == (
        int(fields[0]),
        int(fields[1]),
        int(fields[-1]) << 10,
    )
    assert seen.cpu_s == pytest.approx(cpu_s)
    assert seen.has_ended is has_ended


@pytest.mark.parametrize("line", ["", "1 2 3", "a b c d e f g h i j", "1 0 S Fri Foo 20 11:13:14 2026 0:01 9"])
def test_anything_else_is_refused(line: str) -> None:
    """Nothing is guessed of a line that is no process."""
    with pytest.raises(ValueError, match=r".+"):
        read_ps_line(line)


def test_start_times_are_a_second_apart_at_most() -> None:
    """ps rounds, so a second more or less is the same process, and two are another one."""
    found = Identity(pid=7, started=1000)
    assert [PsTable().is_same(found, replace(found, started=1000 + late)) for late in (-2, -1, 0, 1, 2)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert not PsTable().is_same(found, replace(found, pid=8))


def test_each_system_has_its_table() -> None:
    """/proc on Linux; elsewhere ps. Where ps does not run, that is an error and not an empty machine."""
    assert isinstance(table_of("linux"), ProcTable)
    assert isinstance(table_of("darwin"), PsTable)
    with pytest.raises(SandboxStartFailed, match="/nonexistent/ps does not tell of processes here"):
        PsTable("/nonexistent/ps").children(1)


def test_the_service_needs_no_name_of_linux_only_to_begin() -> None:
    """Everything that serves sandboxes, the store and the gateway is imported in a Python that lacks what macOS's
    lacks; the launcher, which is the Docker engine's neighbour, stays on Linux."""
    program = WITHOUT_LINUX + (
        "import importlib, pkgutil\n"
        "import service.gateway.listener, service.sandboxes, service.store, service.contexts.documents.confinement\n"
        "for package in (service.sandboxes, service.store):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        if not module.ispkg: importlib.import_module(module.name)\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
