"""Which level works here: found by starting a sandbox at it and looking around from the inside.

A level counts only if a cell there fails to do what it must not be able to do. That a program is installed, or that
the operating system announces a feature, proves nothing.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from service.errors import RlmServiceError
from service.ids import CellId
from service.loop.values import CellResult, CellStatus
from service.sandboxes.levels import LevelName
from service.sandboxes.opening import open_sandbox
from service.sandboxes.port import Provider, Template
from service.store.errors import StoreFailed

PROBE_DEADLINE_S = 45.0
_PROBE_TEMPLATE: Final = Template(memory_bytes=256 << 20, tmp_bytes=16 << 20, processes=16, file_bytes=16 << 20)

_LOOK_AROUND = """
import ctypes, fcntl, json, mmap, os, socket

PR_GET_SECCOMP = 21

def works(action):
    try:
        action()
    except Exception:
        return False
    return True

def share_memory():
    mmap.mmap(-1, mmap.PAGESIZE).close()

def lines(path):
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return None

status = dict(line.split(":\\t", 1) for line in lines("/proc/self/status") or () if ":\\t" in line)
devices = lines("/proc/net/dev")
print(json.dumps({
    "reads a file of the host": works(lambda: open(BAIT).close()),
    "lists a directory of the host": works(lambda: os.listdir(os.path.dirname(BAIT))),
    "writes to its session directory": works(lambda: open(os.path.join(SESSION, "planted"), "w").close()),
    "changes the mode of a file of the host": works(lambda: os.chmod(BAIT, 0o644)),
    "changes the times of a file of the host": works(lambda: os.utime(BAIT)),
    "truncates a file of the host": works(lambda: os.truncate(BAIT, 0)),
    "changes the mode of its session directory": works(lambda: os.chmod(SESSION, 0o755)),
    "signals another process": works(lambda: os.kill(os.getppid(), 0)),
    "has Linux signal another process": works(lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())),
    "shares memory, which no limit counts": works(share_memory),
    "opens a network socket": works(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
    "opens a unix socket": works(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()),
    "runs without a seccomp filter": ctypes.CDLL(None).prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0,
    "runs as root": os.geteuid() == 0,
    "holds capabilities": int(status.get("CapEff", "0"), 16) != 0,
    "sees processes of the host": works(lambda: os.listdir("/proc")) and sum(map(str.isdigit, os.listdir("/proc"))) > 8,
    "has a network device": devices is not None and any(not line.strip().startswith("lo:") for line in devices[2:]),
}))
"""

_ONLY_WITH_NAMESPACES = ("sees processes of the host", "has a network device")
"""What the weaker level does not promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What was found at a level."""

    faults: tuple[str, ...]
    """What keeps it from counting, one line each; empty when it holds."""
    in_force: tuple[str, ...] = ()
    """In the words of `Sandbox.confinement`."""

    @property
    def described(self) -> str:
        """For people, of a level that holds."""
        return f"in force inside: {', '.join(self.in_force)}"


async def probe(provider: Provider, level: LevelName, directory: Path) -> Probed:
    """Try a level.

    `provider` starts sandboxes at exactly this level. Raises nothing of ours: a failure is a fault.
    """
    try:
        with anyio.move_on_after(PROBE_DEADLINE_S):
            with tempfile.TemporaryDirectory(prefix="rlm-probe-") as planted:
                bait = Path(planted) / "bait"
                bait.write_text("readable by everybody outside")
                bait.chmod(0o644)
                bait.parent.chmod(0o755)
                result, in_force = await _run_in_sandbox(provider, bait, directory)
            return Probed(faults=tuple(_judge(result, level)), in_force=in_force)
    except StoreFailed:
        raise  # a full disk says nothing about isolation
    except RlmServiceError as exc:
        return Probed(faults=(str(exc),))
    return Probed(faults=(f"no result within {PROBE_DEADLINE_S:g} s",))


async def _run_in_sandbox(provider: Provider, bait: Path, directory: Path) -> tuple[CellResult, tuple[str, ...]]:
    async with anyio.create_task_group() as tasks:
        try:
            sandbox = await open_sandbox(
                tasks, provider, _PROBE_TEMPLATE, sessions=directory, gateway_socket=None, hash_seed=0
            )
        except RlmServiceError as exc:
            failure: RlmServiceError | None = exc
        else:
            failure = None
            try:
                await sandbox.claim(generation=1, grant="none", random_seed=0)
                paths = f"BAIT = {str(bait)!r}\nSESSION = {str(sandbox.directory)!r}\n"
                result = await sandbox.run_cell(
                    CellId("probe"), paths + _LOOK_AROUND, active_limit_s=10, wall_limit_s=20
                )
            except RlmServiceError as exc:
                failure = exc
            finally:
                await sandbox.kill()
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result, sandbox.confinement


def _judge(result: CellResult, level: LevelName) -> list[str]:
    if result.status is not CellStatus.OK:
        return [f"the probe's cell ended as {result.status}: {result.raised.message[:200] if result.raised else ''}"]
    try:
        found: Mapping[str, object] = json.loads(result.stdout.head)
        deeds = [deed for deed, done in found.items() if done]
    except (ValueError, AttributeError):
        return ["the probe's cell printed something else than its findings"]
    if level is not LevelName.NAMESPACES:
        deeds = [deed for deed in deeds if deed not in _ONLY_WITH_NAMESPACES]
    return [f"a cell there {deed}" for deed in deeds]
