"""Sandboxes that run, as Linux and the engine tell of them from outside.

A wall that is missing behind another one is felt by no attack: the bound directory that could be written to if its
mode allowed it, the network of the host that no socket can be opened to. Here each wall is looked at by itself. Only
root may look at a process of another uid in this way; to everybody else there are no such rows.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from service.sandboxes.docker_profile import OVERHEAD_BYTES, PROCESSES_BESIDE_KERNEL, SESSION, SHM_BYTES
from service.sandboxes.docker_provider import ContainerProcess, DockerProvider
from service.sandboxes.local_process import LocalProcess
from service.sandboxes.port import Template
from service.sandboxes.processes import descendants
from service.sandboxes.sandbox import Sandbox
from tests.escape.backends import Backend
from tests.escape.case import LANDLOCK, PROCESS, RUNC, RUNSC, BackendName, Row
from tests.sandboxes.docker_machine import containers_of, engine

_AS_IT_SHOULD_BE = "as_it_should_be"
_NAMESPACES: Mapping[BackendName, tuple[str, ...]] = {
    RUNC: ("mnt", "net", "pid", "ipc", "uts", "cgroup"),
    RUNSC: ("mnt", "net", "ipc", "uts"),  # its guest counts processes of its own
    PROCESS: ("mnt", "net", "pid", "ipc", "uts", "cgroup"),
    LANDLOCK: (),
}
_FILTERS: Mapping[BackendName, int] = {RUNC: 3, PROCESS: 2, LANDLOCK: 2}
"""On a kernel: the container's, the sandbox's, its own. Under gVisor they are the guest's, and Linux sees none."""
_OF_MEMORY = frozenset({"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})
"""Kinds of file systems that are not on the host's disk."""
_SPARE_INODES = 1024
_ENVIRONMENT = {"PATH", "PYTHONPATH", "PYTHONHASHSEED", "HOME"}
_STACK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One sandbox's processes, as this machine counts; the last is its kernel, or what gVisor shows of itself."""

    pids: tuple[int, ...]

    @property
    def kernel(self) -> int:
        return self.pids[-1]


def rows(
    backend: Backend, template: Template, sandbox: Sandbox, neighbour: Sandbox, grants: Sequence[str]
) -> list[Row]:
    """Two claimed sandboxes of one template, looked at. Their `grants` are known to their supervisors alone."""
    if os.geteuid() != 0:
        return []
    ours, theirs = _seen(backend.name, sandbox), _seen(backend.name, neighbour)
    found = [_row("it shares no namespace", _shared_namespaces(backend.name, ours, theirs))]
    if backend.name != RUNSC:
        found.append(_row("identity, capabilities, filters", _identity_faults(backend.name, ours, theirs)))
        found.append(_row("limits", _limit_faults(template, ours)))
    if backend.name in (RUNC, PROCESS):
        found.append(_row("mounts", _mount_faults(backend.name, template, ours.kernel)))
    if backend.name in (RUNC, RUNSC):
        found.append(_row("what the engine was told", _engine_faults(backend, template, sandbox)))
        found.append(_row("no secret in what the engine knows", _secrets_told(backend, sandbox, grants)))
    return found


def _row(name: str, faults: Sequence[str]) -> Row:
    return Row(
        case=f"from outside: {name}",
        held=not faults,
        found=tuple(faults) or (_AS_IT_SHOULD_BE,),
        expected=(_AS_IT_SHOULD_BE,),
    )


def _seen(backend: BackendName, sandbox: Sandbox) -> _Seen:
    """Down from the process that was started to the one that nobody was forked from."""
    process = sandbox.process
    assert isinstance(process, ContainerProcess | LocalProcess)
    if backend == RUNSC:
        return _Seen(pids=process.pids)
    pids = list({*process.pids, *(identity.pid for pid in process.pids for identity in descendants(pid))})
    parents = {pid: _parent(pid) for pid in pids}
    pids.sort(key=lambda pid: _depth(pid, parents))
    return _Seen(pids=tuple(pids))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _depth(pid: int, parents: Mapping[int, int]) -> int:
    return 0 if parents[pid] not in parents else 1 + _depth(parents[pid], parents)


def _shared_namespaces(backend: BackendName, ours: _Seen, theirs: _Seen) -> list[str]:
    return [
        f"{kind} of {whose}"
        for kind in _NAMESPACES[backend]
        for whose, other in (("the machine", os.getpid()), ("its neighbour", theirs.kernel))
        if os.readlink(f"/proc/{ours.kernel}/ns/{kind}") == os.readlink(f"/proc/{other}/ns/{kind}")
    ]


def _identity_faults(backend: BackendName, ours: _Seen, theirs: _Seen) -> list[str]:
    status, other = _status(ours.kernel), _status(theirs.kernel)
    faults = [
        f"{name} is {status[name]}"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        if int(status[name], 16)
    ]
    for name in ("Uid", "Gid"):
        ids = set(status[name].split())
        if len(ids) != 1 or "0" in ids:
            faults.append(f"{name} is {status[name]}")
        if ids & set(other[name].split()):
            faults.append(f"{name} is its neighbour's")
    if set(status["Groups"].split()) - set(status["Gid"].split()):
        faults.append(f"Groups are {status['Groups']}")
    expected = {"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": str(_FILTERS[backend])}
    faults += [f"{name} is {status[name]}" for name, value in expected.items() if status.get(name, value) != value]
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in ours.pids[-3:]]
    # Landlock hides the file from a kernel that would volunteer.
    if not (all(score >= 500 for score in scores) if backend == LANDLOCK else scores == [500, 500, 1000]):
        faults.append(f"supervisor, zygote and kernel are victims of {scores}")
    return faults


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _limit_faults(template: Template, ours: _Seen) -> list[str]:
    most = {
        "Max core file size": 0,
        "Max open files": template.open_files,
        "Max file size": template.file_bytes,
        "Max data size": template.memory_bytes,
        "Max stack size": _STACK_BYTES,
    }
    limits = _hard_limits(ours.kernel)
    faults = [
        f"{name} is {limits[name]}" for name, value in most.items() if limits[name] is None or limits[name] != value
    ]
    if limits["Max processes"] is None:
        faults.append("processes have no limit")
    return faults


def _hard_limits(pid: int) -> dict[str, int | None]:
    """By Linux's names; None where there is none. The columns have fixed places."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    at = lines[0].index("Hard Limit")
    words = {line[:26].strip(): line[at : at + 21].split()[0] for line in lines[1:]}
    return {name: None if word == "unlimited" else int(word) for name, word in words.items()}


def _mount_faults(backend: BackendName, template: Template, kernel: int) -> list[str]:
    faults: list[str] = []
    session = False
    for point, options, kind in _mounts(kernel):
        if kind not in _OF_MEMORY and "ro" not in options:
            faults.append(f"{point} of {kind} can be written to")
        session = session or (point == SESSION and "ro" in options)
        if point in ("/tmp", "/dev/shm") and not {"nosuid", "nodev"} <= options:
            faults.append(f"{point} is {','.join(sorted(options))}")
        if point in ("/", "/rlm", "/rlm/image") and "ro" not in options:
            faults.append(f"{point} can be written to")
    if not session:
        faults.append("its session directory is not mounted read-only")
    for place, size_bytes in (("/tmp", template.tmp_bytes), ("/dev/shm", None)):
        found = os.statvfs(f"/proc/{kernel}/root{place}")
        held_bytes = found.f_blocks * found.f_frsize
        if held_bytes > (size_bytes or 64 << 20):
            faults.append(f"{place} has {held_bytes >> 20} MiB")
        # bubblewrap knows no limit on files; there the supervisor counts them.
        if backend == RUNC and not 0 < found.f_files <= max(_SPARE_INODES, held_bytes // 4096):
            faults.append(f"{place} may have {found.f_files} files")
    return faults


def _mounts(pid: int) -> Iterator[tuple[str, frozenset[str], str]]:
    """Where, how, and of what kind."""
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        yield words[4], frozenset(words[5].split(",")), after.split()[0]


def _engine_faults(backend: Backend, template: Template, sandbox: Sandbox) -> list[str]:
    with engine() as client:
        container_id = _container_of(client, backend, sandbox)
        found: dict[str, Any] = client.inspect_container(container_id)
        stats: dict[str, Any] = client.stats(container_id, stream=False, one_shot=True)
    host = found["HostConfig"]
    memory_bytes = template.memory_bytes + template.tmp_bytes + SHM_BYTES + OVERHEAD_BYTES
    told = {
        "network": host["NetworkMode"] == "none" and set(found["NetworkSettings"]["Networks"]) <= {"none"},
        "no namespace of another": not any(host[name] for name in ("PidMode", "UTSMode", "UsernsMode")),
        "private ipc": host["IpcMode"] in ("private", "none"),
        "no privileges": not host["Privileged"] and not host["CapAdd"] and host["CapDrop"] == ["ALL"],
        "filter and no new privileges": "no-new-privileges:true" in host["SecurityOpt"]
        and any(word.startswith("seccomp={") for word in host["SecurityOpt"]),
        "a root that is only read": host["ReadonlyRootfs"],
        "one mount, only read": [(m["Destination"], m["RW"]) for m in found["Mounts"]] == [(SESSION, False)],
        "nothing else of the host": not any(
            host[name]
            for name in ("Binds", "Devices", "VolumesFrom", "ExtraHosts", "PortBindings", "DeviceCgroupRules", "Links")
        ),
        "no log": (host["LogConfig"]["Type"], found["LogPath"]) == ("none", ""),
        "no second life": host["RestartPolicy"]["Name"] == "no",
        "memory, no swap": host["Memory"] == host["MemorySwap"] == memory_bytes,
        "memory in force": backend.name == RUNSC or stats["memory_stats"]["limit"] == memory_bytes,
        "threads": 0 < host["PidsLimit"] <= max(1024, template.processes + PROCESSES_BESIDE_KERNEL),
        "one processor": 0 < host["NanoCpus"] <= 1_000_000_000,
        "a user": found["Config"]["User"].partition(":")[0] not in ("", "0", "root"),
        "no environment of ours": {word.partition("=")[0] for word in found["Config"]["Env"]} <= _ENVIRONMENT,
        "nobody attached": not any(found["Config"][name] for name in ("AttachStdin", "OpenStdin", "Tty")),
    }
    return [name for name, is_so in told.items() if not is_so]


def _secrets_told(backend: Backend, sandbox: Sandbox, grants: Sequence[str]) -> list[str]:
    """By what the engine keeps of a container, by its processes and by what it changed in its root."""
    assert isinstance(backend.provider, DockerProvider)
    secrets = {"the owner's key": backend.provider._launcher.owner_key}
    secrets |= {f"grant {number}": grant for number, grant in enumerate(grants)}
    with engine() as client:
        container_id = _container_of(client, backend, sandbox)
        told = repr((client.inspect_container(container_id), client.top(container_id), client.diff(container_id)))
    return [f"{name} is told" for name, secret in secrets.items() if secret in told]


def _container_of(client: docker.APIClient, backend: Backend, sandbox: Sandbox) -> str:
    (found,) = [
        str(each["Id"])
        for each in containers_of(client, backend.directory)
        if each["Labels"]["rlm.sandbox"] == sandbox.sandbox_id
    ]
    return found
