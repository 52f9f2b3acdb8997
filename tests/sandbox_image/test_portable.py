"""The sandbox as macOS would run it, as far as Linux allows: without a call of Linux's own, and without its walls.

The same supervisor, zygote and kernel, told that this is macOS, in a Python that lacks what macOS's lacks. What only a
Mac can show (Seatbelt, what macOS tells of a process) is not shown here.
"""

import contextlib
import os
import pkgutil
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest

import sandbox_image
from sandbox_image.macos import MacOS, read_usage
from sandbox_image.start import EXIT_NOT_CONFINED
from sandbox_image.system import ConfinementFailed, Identity, system_of
from tests.lacking import WITHOUT_LINUX
from tests.sandbox_image.host import IMAGE, GatewayServer, Host, alive, children, echo_gateway, python_for, start_host

ON_MACOS = WITHOUT_LINUX + "from sandbox_image.start import main; sys.exit(main(sys.argv[1:], 'darwin'))"
OF_LINUX_ONLY = {"linux", "seccomp", "landlock", "native", "syscalls"}
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


@pytest.fixture
def portable() -> Iterator[Host]:
    """A claimed one."""
    with start_host("--unsafe-unconfined", landlock=False, program=("-c", ON_MACOS)) as started:
        started.claim()
        yield started


def test_cells_share_variables_and_large_texts_are_mapped(portable: Host) -> None:
    """A context is bound, cells see it and each other's variables, values and the list of variables are read."""
    assert portable.bind_text("context", b"needle" + b"x" * 100_000).status == 200
    assert portable.run("n = context.find('x') + len(context)")["status"] == "ok"
    assert portable.evaluate("n") == 6 + 100_006
    assert portable.value("n").body == b"100012"
    assert [shown["name"] for shown in portable.request("GET", "/variables").json["variables"]] == ["n"]


def test_host_calls_go_through_the_supervisor(portable: Host) -> None:
    """A batch of calls is answered by the gateway, in order."""
    gateway = GatewayServer(portable.directory, echo_gateway)
    assert portable.evaluate("llm_query_batched(['a', 'b', 'c'])") == ["A", "B", "C"]
    gateway.close()


def test_limits_interrupt_and_then_kill(portable: Host) -> None:
    """A loop is interrupted and keeps its variables; one that swallows interrupts loses its kernel."""
    reply = portable.run("kept = 7\nwhile True: pass", active_limit_s=0.3)
    assert (reply["status"], reply["namespace_lost"]) == ("timed_out", False)
    assert portable.evaluate("kept") == 7
    reply = portable.run(STUBBORN, active_limit_s=0.3, grace_s=0.3)
    assert (reply["status"], reply["namespace_lost"]) == ("timed_out", True)
    alive(portable)


@pytest.mark.parametrize("death", ["import os; os._exit(3)", "import os; os.abort()"])
def test_a_dead_kernel_is_replaced(portable: Host, death: str) -> None:
    """However it dies, that is the cell's result, and a fresh one runs the next; so it is after a restart."""
    assert portable.run(death)["status"] == "killed"
    alive(portable)
    assert portable.request("POST", "/restart", {}).status == 200
    alive(portable)


def test_files_go_in_and_out(portable: Host) -> None:
    """A file is put beside cells, read by one, and what a cell wrote is listed and read back."""
    source = portable.place("upload", b"content")
    wanted = {"path": "in/a.txt", "source": source["file"], "size_bytes": 7}
    assert portable.request("PUT", "/files", wanted).status == 200
    assert portable.run("open('out', 'w').write(open('in/a.txt').read().upper())")["status"] == "ok"
    assert [shown["path"] for shown in portable.request("GET", "/files").json["files"]] == ["in/a.txt", "out"]
    assert portable.request("GET", "/files/content?path=out").body == b"CONTENT"


def test_output_without_end_and_hanging_up_are_survived(portable: Host) -> None:
    """A flood is cut; a host that hangs up in the middle of a cell finds the cell when it dials again."""
    assert portable.run("print('x' * 3_000_000)")["stdout"]["size_bytes"] == 3_000_001
    portable.send("cells", "PUT", "/cells/slow", portable.cell_body("import time; time.sleep(0.5); print('done')"))
    portable.wait_stat("running_cell", "slow")
    portable.drop("cells")
    assert portable.request("GET", "/cells/slow", lane="cells").json["stdout"]["head"] == "done\n"


@pytest.mark.parametrize("killed", ["supervisor", "zygote"])
def test_nothing_spins_on_alone(portable: Host, killed: str) -> None:
    """Without a signal that tells of a dead parent: the zygote ends a spinning kernel when the supervisor has died, and
    the supervisor ends when the zygote has."""
    (zygote,) = children(portable.process.pid)
    (kernel,) = children(zygote)
    portable.send("cells", "PUT", "/cells/c", portable.cell_body(STUBBORN, active_limit_s=600.0, wall_limit_s=600.0))
    portable.wait_stat("running_cell", "c")
    watched = os.pidfd_open(kernel if killed == "supervisor" else portable.process.pid)
    spinning = os.pidfd_open(kernel)
    os.kill(portable.process.pid if killed == "supervisor" else zygote, signal.SIGKILL)
    try:
        assert select.select([watched], [], [], 60)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(spinning, signal.SIGKILL)
        os.close(watched)
        os.close(spinning)


def test_modules_of_linux_are_imported_on_linux_only() -> None:
    """On macOS everything else of the package is imported, none of it leans on a name that only Linux's Python has,
    and no module of Linux's own comes along."""
    names = sorted(module.name for module in pkgutil.iter_modules(sandbox_image.__path__))
    assert set(names) >= OF_LINUX_ONLY
    portable = [name for name in names if name not in OF_LINUX_ONLY | {"__main__"}]
    program = WITHOUT_LINUX + (
        "import importlib\n"
        f"for name in {portable!r}: importlib.import_module('sandbox_image.' + name)\n"
        "from sandbox_image.system import system_of\n"
        "system_of('darwin')\n"
        "print(*(name for name in sys.modules if name.startswith('sandbox_image.')))\n"
    )
    done = subprocess.run(
        [python_for(None), "-P", "-s", "-S", "-B", "-c", program],
        env={"PYTHONPATH": str(IMAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert {name.removeprefix("sandbox_image.") for name in done.stdout.split()} == set(portable)


def test_no_confinement_is_taken_for_granted() -> None:
    """Told to be within Seatbelt where there is none, the sandbox does not start; nor does it become another uid."""
    with pytest.raises(ConfinementFailed, match="sandbox-exec"):
        MacOS().confine_supervisor(session_directory="/s", tmp_directory="/t", by="seatbelt")
    with pytest.raises(ConfinementFailed, match="ordinary user"):
        MacOS().drop_privileges(Identity(uid=7, gid=7))
    with pytest.raises(ConfinementFailed, match="expected Linux or macOS, found win32"):
        system_of("win32")
    done = subprocess.run(
        [python_for(None), "-P", "-s", "-S", "-B", "-c", ON_MACOS, "--session-directory", "/", "--confine", "seatbelt"],
        env={"PYTHONPATH": str(IMAGE.parent)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_NOT_CONFINED
    assert b"found no Seatbelt around this process" in done.stderr


def test_what_macos_does_not_tell_is_not_made_up() -> None:
    """Where the system's library has no such call, CPU time is an error and memory unknown; a record is read by its
    words."""
    with pytest.raises(OSError, match="has no"):
        MacOS().process_cpu_s(os.getpid())
    assert MacOS().held_bytes(os.getpid()) is None
    record = bytes(range(16)) + b"".join(number.to_bytes(8, "little") for number in range(100, 110))
    assert read_usage(record) == tuple(range(100, 110))
