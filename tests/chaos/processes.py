"""The processes of sandboxes, found from what their replica wrote down about them. Nobody else's are looked at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.sandboxes.directory import read_process_record, sessions_in
from service.sandboxes.process_table import Identity
from service.sandboxes.processes import identify, is_alive

Part = Literal["sandbox", "supervisor", "kernel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxProcesses:
    """One sandbox that lives."""

    outer: Identity
    """What everything in the sandbox ends with: bubblewrap, or the first process of the container."""
    supervisor: Identity | None
    kernel: Identity | None
    """The innermost: forked by the zygote, which the supervisor started."""

    def part(self, name: Part) -> Identity | None:
        match name:
            case "sandbox":
                return self.outer
            case "supervisor":
                return self.supervisor
            case "kernel":
                return self.kernel


def sandboxes_of(sessions: Path) -> list[SandboxProcesses]:
    """Those whose replica has written them down; a sandbox may end while it is looked at."""
    found = []
    for session in sessions_in(sessions):
        record = read_process_record(session)
        if record is None or len(record.processes) < 2:
            continue
        outer, inner = (Identity(pid=pid, started=started) for pid, started in record.processes[:2])
        if is_alive(outer) and is_alive(inner):
            supervisor = only_child(inner)
            zygote = only_child(supervisor)
            found.append(SandboxProcesses(outer=outer, supervisor=supervisor, kernel=only_child(zygote)))
    return found


def alive_of(sessions: Path) -> list[Identity]:
    """Every process that any record names and that still runs."""
    records = [read_process_record(session) for session in sessions_in(sessions)]
    named = [Identity(pid=pid, started=at) for record in records if record for pid, at in record.processes]
    return [each for each in named if is_alive(each)]


def descriptors_of(pid: int) -> list[str]:
    """What a process of ours holds open; what it closes meanwhile is left out."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue
    return found


def only_child(parent: Identity | None) -> Identity | None:
    """The youngest child; None where there is none."""
    if parent is None:
        return None
    pids: list[int] = []
    try:
        for task in Path(f"/proc/{parent.pid}/task").iterdir():
            pids += [int(pid) for pid in (task / "children").read_text().split()]
    except OSError:
        return None
    children = [child for pid in pids if (child := identify(pid)) is not None]
    return max(children, key=lambda child: (child.started, child.pid), default=None)
