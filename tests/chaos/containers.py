"""What a cluster of Docker sandboxes has besides: a launcher in a process of its own, as deployments have one, and the
containers that bear its label. Nobody else's are looked at.
"""

import subprocess
import sys
from pathlib import Path

import anyio
import anyio.abc
import docker.errors

from service.sandboxes.processes import identify
from tests.chaos.processes import SandboxProcesses, only_child
from tests.machine import DOCKER_HOST, ROOT, SANDBOX_IMAGE
from tests.sandboxes.docker_machine import containers_of, engine
from tests.serve_process import end

SOCKET = "l"
"""Of the launcher, in the cluster's directory."""
_ENDS_WITHIN_S = 60


async def start_launcher(directory: Path) -> anyio.abc.Process:
    """One that listens when this returns. Its containers outlive it, unless it is told to end."""
    words = [sys.executable, "-P", "-m", "service.sandboxes.launcher", "--until-stdin-closes", "--image", SANDBOX_IMAGE]
    words += ["--socket", str(directory / SOCKET), "--sessions", str(directory / "data" / "sessions")]
    words += ["--docker-host", DOCKER_HOST]
    with (directory / "launcher.log").open("ab") as log:
        process = await anyio.open_process(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT)
    assert process.stdout is not None
    try:
        await process.stdout.receive()
    except anyio.EndOfStream:
        await end(process)
        raise RuntimeError("the launcher ended before it listened") from None
    return process


async def tell_to_end(launcher: anyio.abc.Process) -> None:
    """It ends its containers, then itself."""
    with anyio.CancelScope(shield=True):
        assert launcher.stdin is not None
        await launcher.stdin.aclose()
        with anyio.move_on_after(_ENDS_WITHIN_S):
            await launcher.wait()
        await end(launcher)


def sandboxes_in_containers(data: Path) -> list[SandboxProcesses]:
    """Those whose containers run; one may end while it is looked at."""
    found = []
    with engine() as client:
        for container in containers_of(client, data):
            try:
                pid = client.inspect_container(container["Id"])["State"]["Pid"]
            except docker.errors.APIError:
                continue
            first = identify(pid) if pid else None
            if first is not None:
                found.append(SandboxProcesses(outer=first, supervisor=first, kernel=only_child(only_child(first))))
    return found


def containers_left(data: Path) -> list[str]:
    """By their sandboxes' ids."""
    with engine() as client:
        return sorted(container["Labels"]["rlm.sandbox"] for container in containers_of(client, data))
