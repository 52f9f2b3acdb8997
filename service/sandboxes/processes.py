"""Processes of this machine as /proc tells of them: recognised by pid *and* start time, ended as whole trees.

A pid is a number that comes round again; a pid with its start time and the boot it belongs to is one process. Signals
go through a pidfd that was checked after it was opened, so that they cannot reach a newcomer under an old number.
"""

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio

from service.sandboxes.port import Measured

KILL_DEADLINE_S = 10.0
"""For a killed process to be gone; longer means that it hangs in the operating system."""
_FREEZE_ROUNDS = 64
_CHILDREN_ARE_LISTED = Path("/proc/thread-self/children").exists()
"""CONFIG_PROC_CHILDREN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process of this boot."""

    pid: int
    started: int
    """Clock ticks after boot: field 22 of /proc/<pid>/stat."""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None when there is none, or only its exit status is left."""
    found = _stat(pid)
    return None if found is None or found.state in "ZX" else Identity(pid=pid, started=found.started)


def is_alive(identity: Identity) -> bool:
    return identify(identity.pid) == identity


def send(identity: Identity, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; whether it was there to receive it."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def wait_until_gone(identities: Iterable[Identity]) -> bool:
    """Until none of them runs, at most `KILL_DEADLINE_S`; whether it came to that."""
    with anyio.move_on_after(KILL_DEADLINE_S):
        for identity in identities:
            await _wait_for_one(identity)
        return True
    return False


async def kill_tree(root: Identity) -> bool:
    """Kill a process and everything below it; whether all of it is gone.

    The tree is stopped before it is killed, the root first: a stopped process starts no further ones, and the orphans
    of a root that reaps (a child subreaper) stay below it, so the tree seen last is complete.
    """
    stopped: dict[int, Identity] = {}
    if not send(root, signal.SIGSTOP):
        return True
    quiet_rounds = 0
    for _ in range(_FREEZE_ROUNDS):
        found = {identity.pid: identity for identity in descendants(root.pid)}
        new = [identity for pid, identity in found.items() if stopped.get(pid) != identity]
        for identity in new:
            send(identity, signal.SIGSTOP)
            stopped[identity.pid] = identity
        # Linux may leave out a child when another one ends while the list is read; nothing does that twice running.
        quiet_rounds = 0 if new else quiet_rounds + 1
        if quiet_rounds == 2:
            break
    tree = [*stopped.values(), root]
    for identity in tree:
        send(identity, signal.SIGKILL)
    return await wait_until_gone(tree)


def descendants(pid: int) -> list[Identity]:
    """Everything below a process, parents before children. Walks down, as `measured` does."""
    tree: dict[int, Identity] = {}
    todo = [pid]
    while todo:
        for child in _children(todo.pop()):
            if child not in tree and (identity := identify(child)) is not None:
                tree[child] = identity
                todo.append(child)
    return list(tree.values())


def measured(pids: Iterable[int]) -> Measured:
    """The CPU time of processes and of everything below them, children that have ended and were waited for included,
    and the most memory that any of those still there has held. Both are 0 where there are none.

    Walks down from each, so that it takes as long as the tree is large, however many processes the machine has.
    """
    ticks = peak_bytes = 0
    seen: set[int] = set()
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid not in seen and (found := _stat(pid)) is not None:
            seen.add(pid)
            ticks += found.cpu_ticks
            peak_bytes = max(peak_bytes, _peak_bytes(pid))
            todo += _children(pid)
    return Measured(cpu_s=ticks / os.sysconf("SC_CLK_TCK"), memory_peak_bytes=peak_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    state: str
    parent: int
    started: int
    cpu_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = line[line.rindex(b")") + 2 :].split()  # the name before it may hold spaces and parentheses
    return _Stat(
        state=fields[0].decode(),
        parent=int(fields[1]),
        started=int(fields[19]),
        cpu_ticks=sum(int(field) for field in fields[11:15]),
    )


def _peak_bytes(pid: int) -> int:
    """0 of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    found = re.search(rb"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return 0 if found is None else int(found[1]) << 10


def _children(pid: int) -> list[int]:
    """As each of its threads knows them; by looking at everybody's parent where Linux was built without that list."""
    if not _CHILDREN_ARE_LISTED:
        stats = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
        return [child for child, found in stats if found is not None and found.parent == pid]
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return children


async def _wait_for_one(identity: Identity) -> None:
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return
    try:
        if is_alive(identity):
            await anyio.wait_readable(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
