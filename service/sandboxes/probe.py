"""Which level works here: found by starting a sandbox at it and looking around from the inside.

A level counts only if a cell there fails to do what it must not be able to do. That a program is installed, or that
the operating system announces a feature, proves nothing.
"""

import json
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
PLANTED = os.path.dirname(BAIT)

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

def start_process():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def start_program():
    os.waitpid(os.posix_spawn("/bin/sh", ["/bin/sh", "-c", "exit 0"], {}), 0)

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(2)
        stream.connect(address)

def has_no_filter():
    try:
        return ctypes.CDLL(None).prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0
    except AttributeError:  # not Linux
        return True

def sees_many_processes():
    try:
        return sum(map(str.isdigit, os.listdir("/proc"))) > 8
    except OSError:
        return not os.path.exists("/proc")  # not Linux

status = dict(line.split(":\\t", 1) for line in lines("/proc/self/status") or () if ":\\t" in line)
devices = lines("/proc/net/dev")
print(json.dumps({"kernel build": os.uname().version, "deeds": {
    "reads a file of the host": works(lambda: open(BAIT).close()),
    "lists a directory of the host": works(lambda: os.listdir(PLANTED)),
    "writes beside a file of the host": works(lambda: open(os.path.join(PLANTED, "planted"), "w").close()),
    "writes to its session directory": works(lambda: open(os.path.join(SESSION, "planted"), "w").close()),
    "links a file of its session directory": works(lambda: os.link(os.path.join(SESSION, "sandbox.sock"), "linked")),
    "changes the mode of a file of the host": works(lambda: os.chmod(BAIT, 0o644)),
    "changes the times of a file of the host": works(lambda: os.utime(BAIT)),
    "truncates a file of the host": works(lambda: os.truncate(BAIT, 0)),
    "changes the mode of its session directory": works(lambda: os.chmod(SESSION, 0o755)),
    "signals another process": works(lambda: os.kill(os.getppid(), 0)),
    "has Linux signal another process": works(lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())),
    "shares memory, which no limit counts": works(share_memory),
    "starts a process": works(start_process),
    "starts a program": works(start_program),
    "connects to a port of the host": works(lambda: connect(socket.AF_INET, ("127.0.0.1", PORT))),
    "connects to a socket of the host": works(lambda: connect(socket.AF_UNIX, SOCKET)),
    "opens a network socket": works(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
    "opens a unix socket": works(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()),
    "runs without a seccomp filter": has_no_filter(),
    "runs as root": os.geteuid() == 0,
    "holds capabilities": int(status.get("CapEff", "0"), 16) != 0,
    "sees processes of the host": sees_many_processes(),
    "has a network device": devices is not None and any(not line.strip().startswith("lo:") for line in devices[2:]),
}}))
"""

_WITHOUT_NAMESPACES = frozenset({"sees processes of the host", "has a network device"})
_NOT_PROMISED: Mapping[LevelName, frozenset[str]] = {
    LevelName.NAMESPACES: frozenset(),
    LevelName.LANDLOCK: _WITHOUT_NAMESPACES,
    # There a socket may be had, but nothing to connect it to; and there is no filter of system calls.
    LevelName.SEATBELT: _WITHOUT_NAMESPACES
    | {"opens a network socket", "opens a unix socket", "runs without a seccomp filter"}
    | {"shares memory, which no limit counts"},
}
"""What a cell may do at a level, because that level cannot keep it from it; everything else must fail."""
_NEEDED_IN_FORCE: Mapping[LevelName, tuple[str, ...]] = {LevelName.SEATBELT: ("seatbelt", "no-fork", "memory-watch")}
"""What cannot be seen from a cell, and the image says of itself. On Linux it does not start without."""
GVISOR_BUILD: Final = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
"""The build that gVisor's kernel says it is (uname's version), whatever release it claims: 4.4.0, in newer ones
4.19.0-gvisor."""


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


async def probe(provider: Provider, level: LevelName, directory: Path, *, in_gvisor: bool = False) -> Probed:
    """Try a level.

    `provider` starts sandboxes at exactly this level, with `in_gvisor` on gVisor's own kernel: that a runtime bears its
    name says nothing of what it starts. Raises nothing of ours: a failure is a fault.
    """
    try:
        with anyio.move_on_after(PROBE_DEADLINE_S):
            with _planted() as bait, _listeners(bait.parent / "socket") as port:
                result, in_force = await _run_in_sandbox(provider, bait, port, directory)
            faults = (*_judge(result, level, in_gvisor=in_gvisor), *_missing(in_force, level))
            return Probed(faults=faults, in_force=in_force)
    except StoreFailed:
        raise  # a full disk says nothing about isolation
    except RlmServiceError as exc:
        return Probed(faults=(str(exc),))
    return Probed(faults=(f"no result within {PROBE_DEADLINE_S:g} s",))


@contextmanager
def _planted() -> Iterator[Path]:
    """A file that everybody outside can read, by the path that links lead to: Seatbelt shows no other."""
    with tempfile.TemporaryDirectory(prefix="rlm-probe-") as directory:
        bait = Path(directory).resolve() / "bait"
        bait.write_text("readable by everybody outside")
        bait.chmod(0o644)
        bait.parent.chmod(0o755)
        yield bait


@contextmanager
def _listeners(path: Path) -> Iterator[int]:
    """One at that path and one at a port of this machine itself, which is told. Who connects is let wait."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as by_path,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as by_port,
    ):
        by_path.bind(str(path))
        path.chmod(0o666)
        by_port.bind(("127.0.0.1", 0))
        for listening in (by_path, by_port):
            listening.listen(1)
        yield by_port.getsockname()[1]


async def _run_in_sandbox(
    provider: Provider, bait: Path, port: int, directory: Path
) -> tuple[CellResult, tuple[str, ...]]:
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
                places = {"BAIT": str(bait), "SOCKET": str(bait.parent / "socket"), "PORT": port}
                places["SESSION"] = _resolved(sandbox.directory)
                told = "".join(f"{name} = {place!r}\n" for name, place in places.items())
                result = await sandbox.run_cell(
                    CellId("probe"), told + _LOOK_AROUND, active_limit_s=10, wall_limit_s=20
                )
            except RlmServiceError as exc:
                failure = exc
            finally:
                await sandbox.kill()
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result, sandbox.confinement


def _missing(in_force: tuple[str, ...], level: LevelName) -> list[str]:
    return [f"{word} is not in force there" for word in _NEEDED_IN_FORCE.get(level, ()) if word not in in_force]


def _resolved(path: Path) -> str:
    return str(path.resolve())


def _judge(result: CellResult, level: LevelName, *, in_gvisor: bool = False) -> list[str]:
    if result.status is not CellStatus.OK:
        return [f"the probe's cell ended as {result.status}: {result.raised.message[:200] if result.raised else ''}"]
    try:
        found = json.loads(result.stdout.head)
        kernel_build = str(found["kernel build"])
        deeds = [str(deed) for deed, done in found["deeds"].items() if done]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ["the probe's cell printed something else than its findings"]
    faults = [f"a cell there {deed}" for deed in deeds if deed not in _NOT_PROMISED[level]]
    if in_gvisor and kernel_build != GVISOR_BUILD:
        faults.insert(
            0, f"it does not run on gVisor: the kernel inside is {kernel_build[:120]!r}, expected {GVISOR_BUILD!r}"
        )
    return faults
