"""How a sandbox ends, and that nothing of it outlives whom it served."""

import os
import select
import signal
import sys

import pytest

from tests.sandbox_image.host import Host, SandboxEnded, children, start_host


def test_nothing_outlives_the_supervisor(host: Host) -> None:
    """When the supervisor is killed, zygote and kernel are gone too, without a PID namespace."""
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    watched = [os.pidfd_open(zygote), os.pidfd_open(kernel)]
    os.kill(host.process.pid, signal.SIGKILL)
    for descriptor in watched:
        assert select.select([descriptor], [], [], 30)[0]
        os.close(descriptor)


PARENT = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"


@pytest.mark.parametrize(
    "uid",
    [
        pytest.param(None, id="same-uid"),
        pytest.param(54_321, id="own-uid", marks=[pytest.mark.needs_root, pytest.mark.needs_readable_python]),
    ],
)
def test_nothing_outlives_who_started_it(uid: int | None) -> None:
    """When the process that started the supervisor is killed, the sandbox is gone at once, whatever its patience."""
    with start_host(uid=uid, patience_s=600, started_by=(sys.executable, "-c", PARENT)) as host:
        host.claim()
        (supervisor,) = children(host.process.pid)
        (zygote,) = children(supervisor)
        (kernel,) = children(zygote)
        watched = [os.pidfd_open(pid) for pid in (supervisor, zygote, kernel)]
        os.kill(host.process.pid, signal.SIGKILL)
        for descriptor in watched:
            assert select.select([descriptor], [], [], 30)[0]
            os.close(descriptor)


@pytest.mark.parametrize("then", ["limit", "restart"])
def test_a_stopped_zygote_ends_the_sandbox(host: Host, then: str) -> None:
    """Where nobody can end a kernel any more, the sandbox ends, and the kernel with it: it is lost, not unstoppable."""
    stubborn = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    (zygote,) = children(host.process.pid)
    (kernel,) = children(zygote)
    watched = os.pidfd_open(kernel)
    limit_s = 0.2 if then == "limit" else 600.0
    body = host.cell_body(stubborn, active_limit_s=limit_s, wall_limit_s=600.0, grace_s=0.3)
    host.send("cells", "PUT", "/cells/c", body)
    host.wait_stat("running_cell", "c")
    os.kill(zygote, signal.SIGSTOP)
    if then == "restart":
        host.send("control", "POST", "/restart", {})
    assert host.wait_ended() == 76
    assert select.select([watched], [], [], 30)[0]
    os.close(watched)


def test_a_lost_zygote_ends_the_sandbox_with_its_own_code(host: Host) -> None:
    """Without a zygote no kernel can be started again, so the supervisor leaves, saying so."""
    (zygote,) = children(host.process.pid)
    os.kill(zygote, signal.SIGKILL)
    assert host.wait_ended() == 76


def test_a_sandbox_without_a_host_ends_itself() -> None:
    """When no host accepts a stream for as long as it waits, the supervisor leaves with a code of its own."""
    with start_host(patience_s=1) as host:
        host.stream("cells")
        host.stream("control")
        host.stop_listening()
        host.drop("cells")
        host.drop("control")
        assert host.wait_ended() == 75


def test_cells_after_the_end_are_refused(host: Host) -> None:
    """A host that speaks to a sandbox that is gone learns it from the closed stream."""
    host.run("1")
    host.process.kill()
    host.process.wait()
    with pytest.raises(SandboxEnded):
        host.run("2")
