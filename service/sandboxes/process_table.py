"""What an operating system tells of its processes, one at a time: Linux in /proc, others through ps(1).

/proc is exact: a start time in ticks after boot, CPU time in ticks, the most memory ever held, and a handle (pidfd) on
the very process that a signal or a wait is for. ps tells whole seconds and no handle: a process is known again by its
pid and a start time that may differ by a second, and a signal is sent right after a look.
"""

import calendar
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from service.sandboxes.port import SandboxStartFailed

_CHILDREN_ARE_LISTED = Path("/proc/thread-self/children").exists()
"""CONFIG_PROC_CHILDREN."""
_PS_DEADLINE_S = 10.0
_WORDS_OF_PS = ("-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "lstart=", "-o", "time=", "-o", "rss=")
_PS_LOOK_S = 0.02
_PS_CLOCK_SLACK_S = 1
"""On Linux ps reckons start times from now backwards, and rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process of this boot."""

    pid: int
    started: int
    """In the table's own units: clock ticks after boot, or seconds after 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One process at one moment."""

    identity: Identity
    parent: int
    has_ended: bool
    """And only its exit status is left."""
    cpu_s: float
    memory_bytes: int
    """The most that it has held; where that is not told, what it holds."""


class ProcessTable(Protocol):
    """Asked for this machine's processes. All of it blocks for a moment but `wait_for_end`, and raises
    `SandboxStartFailed` where the operating system tells nothing."""

    def boot(self) -> str:
        """Another one after each boot, when pids begin anew."""
        ...

    def look_at(self, pid: int) -> Seen | None:
        """None when there is no such process."""
        ...

    def children(self, pid: int) -> list[int]: ...

    def is_same(self, first: Identity, second: Identity) -> bool:
        """Whether both were told of one process."""
        ...

    def send(self, identity: Identity, number: signal.Signals) -> bool:
        """Send a signal to exactly this process; whether it was there to receive it."""
        ...

    async def wait_for_end(self, identity: Identity) -> None:
        """Until it runs no more."""
        ...


class ProcTable:
    """Implements `ProcessTable` over /proc."""

    def boot(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def look_at(self, pid: int) -> Seen | None:
        try:
            line = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        fields = line[line.rindex(b")") + 2 :].split()  # the name before it may hold spaces and parentheses
        return Seen(
            identity=Identity(pid=pid, started=int(fields[19])),
            parent=int(fields[1]),
            has_ended=fields[0] in {b"Z", b"X"},
            cpu_s=sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK"),
            memory_bytes=_peak_bytes(pid),
        )

    def children(self, pid: int) -> list[int]:
        """As each of its threads knows them; by looking at everybody's parent where Linux was built without that
        list."""
        if not _CHILDREN_ARE_LISTED:
            everybody = ((int(name), self.look_at(int(name))) for name in os.listdir("/proc") if name.isdigit())
            return [child for child, found in everybody if found is not None and found.parent == pid]
        children: list[int] = []
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        return children

    def is_same(self, first: Identity, second: Identity) -> bool:
        return first == second

    def send(self, identity: Identity, number: signal.Signals) -> bool:
        """Through a pidfd that is checked after it was opened, so that no newcomer under an old number is reached."""
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError:
            return False
        try:
            if not _is_running(self, identity):
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def wait_for_end(self, identity: Identity) -> None:
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError:
            return
        try:
            if _is_running(self, identity):
                await anyio.wait_readable(descriptor)
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class PsTable:
    """Implements `ProcessTable` by asking ps(1), as macOS and Linux have it."""

    def __init__(self, program: str = "/bin/ps") -> None:
        self._program = program

    def boot(self) -> str:
        """When the first process was started."""
        first = self.look_at(1)
        return "" if first is None else str(first.identity.started)

    def look_at(self, pid: int) -> Seen | None:
        return next((read_ps_line(line) for line in self._ask("-p", str(pid))), None)

    def children(self, pid: int) -> list[int]:
        pairs = [line.split(maxsplit=2)[:2] for line in self._ask("-A")]
        return [int(child) for child, parent in pairs if parent == str(pid)]

    def is_same(self, first: Identity, second: Identity) -> bool:
        return first.pid == second.pid and abs(first.started - second.started) <= _PS_CLOCK_SLACK_S

    def send(self, identity: Identity, number: signal.Signals) -> bool:
        if not _is_running(self, identity):
            return False
        try:
            os.kill(identity.pid, number)
        except ProcessLookupError:
            return False
        return True

    async def wait_for_end(self, identity: Identity) -> None:
        while _is_running(self, identity):  # noqa: ASYNC110  nobody tells
            await anyio.sleep(_PS_LOOK_S)

    def _ask(self, *whom: str) -> list[str]:
        """One line a process; none when there is none. In the words of no particular country, and its times in UTC."""
        try:
            asked = subprocess.run(  # noqa: S603 - the system's own program and constants
                [self._program, *_WORDS_OF_PS, *whom],
                env={"LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PS_DEADLINE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise SandboxStartFailed(f"{self._program} does not tell of processes here: {type(exc).__name__}") from exc
        return [line for line in asked.stdout.decode("ascii", "replace").splitlines() if line.strip()]


def read_ps_line(line: str) -> Seen:
    """What ps says of one process when asked as we ask it. Raises `ValueError` for anything else."""
    fields = line.split()
    if len(fields) != 10:
        raise ValueError(f"expected ten words of ps, found {line!r}")
    pid, parent, state, *started, cpu, held_kib = fields
    return Seen(
        identity=Identity(
            pid=int(pid), started=calendar.timegm(time.strptime(" ".join(started), "%a %b %d %H:%M:%S %Y"))
        ),
        parent=int(parent),
        has_ended=state[0] in "ZX",
        cpu_s=_read_duration(cpu),
        memory_bytes=int(held_kib) << 10,
    )


def _read_duration(text: str) -> float:
    """`1-02:03:04` on Linux, `1563:04.05` on macOS."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for field in rest.split(":"):
        seconds = 60 * seconds + float(field)
    return seconds + 86_400 * int(days or 0)


def _is_running(table: ProcessTable, identity: Identity) -> bool:
    found = table.look_at(identity.pid)
    return found is not None and not found.has_ended and table.is_same(found.identity, identity)


def _peak_bytes(pid: int) -> int:
    """0 of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    found = re.search(rb"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return 0 if found is None else int(found[1]) << 10


def table_of(platform: str) -> ProcessTable:
    """By the name that `sys.platform` has for it."""
    return ProcTable() if platform == "linux" else PsTable()


THIS_MACHINE = table_of(sys.platform)
