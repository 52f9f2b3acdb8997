"""What a container has used, from Linux's own files: the engine answers that question about a container once a second.

cgroup v1 and v2. Where the launcher does not see its containers as the machine counts them (it is in a container
itself), there is nothing to be read here, and the engine is asked.
"""

from pathlib import Path

from service.sandboxes.launcher.usage import Usage

LARGEST_FILE_BYTES = 1 << 16


def usage_of(
    pid: int, container_id: str, *, processes: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> Usage | None:
    """Of the container whose first process is this, as this machine counts; None where it cannot be told from here.

    A pid of another namespace may be anybody's here, so the container's id has to stand in the name of its group.
    """
    try:
        places = _places(_read(processes / str(pid) / "cgroup"), container_id)
        if "memory" not in places:  # both kinds may be there at once, and then v1 does the accounting
            return _unified(groups / places[""])
        return _v1(*(groups / name / places[name] for name in ("memory", "cpuacct", "pids")))
    except (OSError, ValueError, KeyError):
        return None


def _places(told: str, container_id: str) -> dict[str, str]:
    """Where the process stands in the hierarchy of each controller; that of v2 has no name. Only the container's."""
    places: dict[str, str] = {}
    for line in told.splitlines():
        _, controllers, path = line.split(":", 2)
        if container_id in path:
            places |= dict.fromkeys(controllers.split(","), path.lstrip("/"))
    return places


def _unified(group: Path) -> Usage:
    now = int(_read(group / "memory.current"))
    cpu = dict(line.split() for line in _read(group / "cpu.stat").splitlines())
    try:
        peak = int(_read(group / "memory.peak"))
    except FileNotFoundError:  # Linux before 5.19
        peak = now
    return Usage(
        memory_bytes=now,
        memory_peak_bytes=max(now, peak),
        cpu_s=int(cpu["usage_usec"]) / 1e6,
        processes=int(_read(group / "pids.current")),
    )


def _v1(memory: Path, cpuacct: Path, pids: Path) -> Usage:
    now = int(_read(memory / "memory.usage_in_bytes"))
    return Usage(
        memory_bytes=now,
        memory_peak_bytes=max(now, int(_read(memory / "memory.max_usage_in_bytes"))),
        cpu_s=int(_read(cpuacct / "cpuacct.usage")) / 1e9,
        processes=int(_read(pids / "pids.current")),
    )


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(LARGEST_FILE_BYTES).decode()
