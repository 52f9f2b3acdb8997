"""Processes of this machine: recognised by pid *and* start time, measured, and ended as whole trees.

A pid is a number that comes round again; a pid with its start time and the boot it belongs to is one process. What the
operating system tells of them comes from a `process_table`.
"""

import signal
from collections.abc import Iterable

import anyio

from service.sandboxes.port import Measured
from service.sandboxes.process_table import THIS_MACHINE, Identity, ProcessTable

KILL_DEADLINE_S = 10.0
"""For a killed process to be gone; longer means that it hangs in the operating system."""
_FREEZE_ROUNDS = 64


def boot_id(table: ProcessTable = THIS_MACHINE) -> str:
    return table.boot()


def identify(pid: int, table: ProcessTable = THIS_MACHINE) -> Identity | None:
    """The process that has this pid now; None when there is none, or only its exit status is left."""
    found = table.look_at(pid)
    return None if found is None or found.has_ended else found.identity


def is_alive(identity: Identity, table: ProcessTable = THIS_MACHINE) -> bool:
    found = identify(identity.pid, table)
    return found is not None and table.is_same(found, identity)


def send(identity: Identity, number: signal.Signals, table: ProcessTable = THIS_MACHINE) -> bool:
    """Send a signal to exactly this process; whether it was there to receive it."""
    return table.send(identity, number)


async def wait_until_gone(identities: Iterable[Identity], table: ProcessTable = THIS_MACHINE) -> bool:
    """Until none of them runs, at most `KILL_DEADLINE_S`; whether it came to that."""
    with anyio.move_on_after(KILL_DEADLINE_S):
        for identity in identities:
            await table.wait_for_end(identity)
        return True
    return False


async def kill_tree(root: Identity, table: ProcessTable = THIS_MACHINE) -> bool:
    """Kill a process and everything below it; whether all of it is gone.

    The tree is stopped before it is killed, the root first: a stopped process starts no further ones, and the orphans
    of a root that reaps (a child subreaper) stay below it, so the tree seen last is complete.
    """
    stopped: dict[int, Identity] = {}
    if not send(root, signal.SIGSTOP, table):
        return True
    quiet_rounds = 0
    for _ in range(_FREEZE_ROUNDS):
        new = [
            identity
            for identity in descendants(root.pid, table)
            if identity.pid not in stopped or not table.is_same(stopped[identity.pid], identity)
        ]
        for identity in new:
            send(identity, signal.SIGSTOP, table)
            stopped[identity.pid] = identity
        # Linux may leave out a child when another one ends while the list is read; nothing does that twice running.
        quiet_rounds = 0 if new else quiet_rounds + 1
        if quiet_rounds == 2:
            break
    tree = [*stopped.values(), root]
    for identity in tree:
        send(identity, signal.SIGKILL, table)
    return await wait_until_gone(tree, table)


def descendants(pid: int, table: ProcessTable = THIS_MACHINE) -> list[Identity]:
    """Everything below a process, parents before children. Walks down, as `measured` does."""
    tree: dict[int, Identity] = {}
    todo = [pid]
    while todo:
        for child in table.children(todo.pop()):
            if child not in tree and (identity := identify(child, table)) is not None:
                tree[child] = identity
                todo.append(child)
    return list(tree.values())


def measured(pids: Iterable[int], table: ProcessTable = THIS_MACHINE) -> Measured:
    """The CPU time of processes and of everything below them, and the most memory that any of those still there has
    held. Both are 0 where there are none. /proc counts the time of children that have ended and were waited for, too.

    Walks down from each, so that it takes as long as the tree is large, however many processes the machine has.
    """
    cpu_s = 0.0
    peak_bytes = 0
    seen: set[int] = set()
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid not in seen and (found := table.look_at(pid)) is not None:
            seen.add(pid)
            cpu_s += found.cpu_s
            peak_bytes = max(peak_bytes, found.memory_bytes)
            todo += table.children(pid)
    return Measured(cpu_s=cpu_s, memory_peak_bytes=peak_bytes)
