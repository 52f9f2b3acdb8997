"""The container profile: from a closed description to the body of the Engine API's `POST /containers/create`.

A pure function, so that a test pins all of it. What each line keeps away is said beside it; the tests of the running
container prove it. Nothing of the host is in a container but its session directory, read-only, and nothing that it
writes reaches the host's disk: its root is read-only, `/tmp` and `/dev/shm` are bounded memory, its output goes
nowhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.sandboxes.bubblewrap import COMMANDING_FILES, TELLING_DIRECTORIES, TELLING_FILES
from service.sandboxes.docker_seccomp import seccomp_profile

SESSION = "/rlm/session"
LABEL_SANDBOX = "rlm.sandbox"
LABEL_SESSIONS = "rlm.sessions"
"""The directory of all session directories: whose launcher a container belongs to."""
LABEL_OWNER = "rlm.owner"
"""The digest of its owner's key: who may ask the launcher for it."""
LABEL_UID = "rlm.uid"
LABEL_DEADLINE = "rlm.deadline"
"""Seconds after the epoch."""

SHM_BYTES = 16 << 20
OVERHEAD_BYTES = 96 << 20
"""Supervisor, zygote and what a kernel has before its first cell."""
BYTES_PER_INODE = 4096
LEAST_INODES = 1024
PROCESSES_BESIDE_KERNEL = 176
"""Supervisor, zygote and their threads. The kernel's own limit is lower by 80, more than the threads that the
supervisor has when as many host calls as may be are in flight: the kernel cannot take the last of them."""
LEAST_GUEST_PROCESSES = 1024
"""Under gVisor the limit counts threads of gVisor itself, which dies where it may not have them; gVisor's guest has
its own limit inside."""
_MASKED_BY_DOCKER = ("/proc/acpi", "/proc/latency_stats", "/proc/scsi", "/proc/timer_stats")
_MACHINE = "/sys"
"""Disks, modules, symbols, firmware: all of it is of the machine, and no Python needs it."""
CPUS = 1.0
HOST_PATIENCE_S = 5
"""How long a sandbox lives on when no host accepts its streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerTemplate:
    """One sandbox, wholly described."""

    sandbox_id: str
    image: str
    runtime: Literal["runc", "runsc"]
    uid: int
    session: Path
    sessions_label: str
    owner_label: str
    memory_bytes: int
    tmp_bytes: int
    processes: int
    open_files: int
    file_bytes: int
    hash_seed: int
    deadline_s: int


def container_profile(template: ContainerTemplate) -> dict[str, Any]:
    """The body of the request that creates the container."""
    memory_bytes = template.memory_bytes + template.tmp_bytes + SHM_BYTES + OVERHEAD_BYTES
    processes = template.processes + PROCESSES_BESIDE_KERNEL
    if template.runtime == "runsc":
        processes = max(processes, LEAST_GUEST_PROCESSES)
    return {
        "Image": template.image,
        "Entrypoint": ["/rlm/python", "-P", "-s", "-S", "-B", "-m", "sandbox_image"],
        "Cmd": _command(template),
        "Env": _environment(template),
        "User": f"{template.uid}:{template.uid}",
        "WorkingDir": "/tmp",  # noqa: S108 - the container's own
        "Hostname": "sandbox",
        "Domainname": "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {
            LABEL_SANDBOX: template.sandbox_id,
            LABEL_SESSIONS: template.sessions_label,
            LABEL_OWNER: template.owner_label,
            LABEL_UID: str(template.uid),
            LABEL_DEADLINE: str(template.deadline_s),
        },
        "HostConfig": {
            "Runtime": template.runtime,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "CapAdd": [],
            "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp_profile()}"],
            # An internal network still reaches the host's own addresses on it; without one there is only loopback.
            "NetworkMode": "none",
            # A namespace of its own, without the /dev/shm that the engine would mount: any number of files fits there.
            "IpcMode": "none",
            "PidMode": "",
            "CgroupnsMode": "private",
            "UTSMode": "",
            "UsernsMode": "",
            "ReadonlyRootfs": True,
            # Both lists take the place of Docker's own, which are shorter.
            "MaskedPaths": [*map(str, TELLING_FILES + TELLING_DIRECTORIES), *_MASKED_BY_DOCKER, _MACHINE],
            "ReadonlyPaths": [*map(str, COMMANDING_FILES), "/proc/asound"],
            "Tmpfs": {
                "/tmp": _bounded(template.tmp_bytes),  # noqa: S108 - the container's own
                "/dev/shm": _bounded(SHM_BYTES),  # noqa: S108 - likewise
            },
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": str(template.session),
                    "Target": SESSION,
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
                }
            ],
            "Binds": [],
            "Devices": [],
            # Swap would let a sandbox have more than its share and make the whole machine slow.
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
            "NanoCpus": int(CPUS * 1_000_000_000),
            "PidsLimit": processes,
            "OomScoreAdj": 500,
            "Ulimits": [
                {"Name": "nofile", "Soft": template.open_files, "Hard": template.open_files},
                {"Name": "fsize", "Soft": template.file_bytes, "Hard": template.file_bytes},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            # json-file would write what a sandbox prints to the host's disk, without a bound.
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": False,
            # The supervisor is the first process: it reaps, and ignores what it does not need.
            "Init": False,
            "PublishAllPorts": False,
        },
    }


def _bounded(size_bytes: int) -> str:
    """How memory is mounted as a place for files."""
    inodes = max(LEAST_INODES, size_bytes // BYTES_PER_INODE)
    return f"rw,noexec,nosuid,nodev,mode=1777,size={size_bytes},nr_inodes={inodes}"


def _command(template: ContainerTemplate) -> list[str]:
    words = ["--session-directory", SESSION, "--open-files", str(template.open_files)]
    return [*words, "--host-patience-s", str(HOST_PATIENCE_S), "--own-uid"]


def _environment(template: ContainerTemplate) -> list[str]:
    # The image's variables would be added by Docker; a name without `=` takes one away, and PATH it adds always.
    return ["PYTHONPATH=/rlm/image:/rlm/packages", f"PYTHONHASHSEED={template.hash_seed}", "HOME=/tmp"]
