"""The levels of the process sandbox: for each, the command that starts a sandbox. Pure; starting is the provider's.

    namespaces   bubblewrap around the image: nothing of the host but what Python needs, no network device, own pids
    landlock     the image alone, confining itself: host files out of reach, but one view of the machine's processes
    seatbelt     macOS's own walls around the image: files and network out of reach, little else (`seatbelt`)
    none         the image alone, unconfined, for debugging the service itself

On Linux, at every level but `none`, the image puts its own seccomp filters in force; `probe` proves each level before
it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from service.sandboxes.bubblewrap import IMAGE_PARENT, SESSION, Profile, bubblewrap_arguments
from service.sandboxes.port import SandboxRefused, Template
from service.sandboxes.python_files import PythonFiles
from service.sandboxes.seatbelt import SeatbeltProfile, seatbelt_arguments

SUPERVISOR_BYTES = 1 << 30
"""What a supervisor may take beyond its kernel's memory: host calls on their way, and the stacks of its threads."""
HOST_PATIENCE_S = 5
"""How long a sandbox lives on when no host accepts its streams and no death signal has reached it."""


class LevelName(StrEnum):
    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    SEATBELT = "seatbelt"
    NONE = "none"


_LEVELS_OF = {"linux": (LevelName.NAMESPACES, LevelName.LANDLOCK), "darwin": (LevelName.SEATBELT,)}
_FIX_ON = {
    "linux": (
        "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0), or run on Linux 6.7 or newer with Landlock enabled"
    ),
    "darwin": "run the service in a Linux virtual machine (docs/decisions/0010), never as root",
}


def levels_of(platform: str) -> tuple[LevelName, ...]:
    """Those that can isolate on an operating system (as `sys.platform` names it), best first.

    Raises:
        SandboxRefused: there is none, with what to do instead.
    """
    if platform not in _LEVELS_OF:
        raise SandboxRefused("process sandboxes need Linux or macOS: on Windows run the service in WSL2")
    return _LEVELS_OF[platform]


def fix_on(platform: str) -> str:
    """What to do where none of them works."""
    return _FIX_ON[platform]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One way to start sandboxes on this machine."""

    name: LevelName
    python: PythonFiles
    image: Path
    """The `sandbox_image` package; its parent directory holds nothing else."""
    bwrap: Path | None = None
    """The bubblewrap of the `namespaces` level."""
    masked: Sequence[Path] = ()
    """Files that the `namespaces` level hides of /proc."""
    emptied: Sequence[Path] = ()
    """Directories that it hides."""
    read_only: Sequence[Path] = ()
    """What it shows of /proc and lets nobody write to."""
    as_root: bool = False
    """Whether the sandbox can, and therefore must, become a uid of its own."""

    @property
    def has_own_pids(self) -> bool:
        """Whether the end of the first process inside is the end of all others."""
        return self.name is LevelName.NAMESPACES


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is particular to one sandbox."""

    template: Template
    session: Path
    tmp: Path
    """A private directory of the host, where the level has no tmpfs of its own."""
    uid: int | None
    hash_seed: int
    status_descriptor: int


def command(level: Level, launch: Launch) -> list[str]:
    """The command line to start. To be run with an environment of `environment` and nothing else."""
    inside = _image_command(level, launch)
    if level.bwrap is not None:
        profile = Profile(
            bwrap=level.bwrap,
            as_root=level.as_root,
            python_files=level.python.paths,
            hidden=level.python.packages,
            image=level.image,
            session=launch.session,
            tmp_bytes=launch.template.tmp_bytes,
            masked=level.masked,
            emptied=level.emptied,
            read_only=level.read_only,
            environment=environment(level, launch),
            status_descriptor=launch.status_descriptor,
        )
        inside = bubblewrap_arguments(profile, inside)
    elif level.name is LevelName.SEATBELT:
        inside = seatbelt_arguments(_seatbelt_profile(level, launch), inside)
    return _with_limits(level, launch.template, inside)


def _seatbelt_profile(level: Level, launch: Launch) -> SeatbeltProfile:
    return SeatbeltProfile(
        executables=level.python.executables,
        python_files=level.python.paths,
        hidden=level.python.packages,
        image=level.image,
        session=launch.session,
        tmp=launch.tmp,
    )


def environment(level: Level, launch: Launch) -> Mapping[str, str]:
    image_parent = IMAGE_PARENT if level.bwrap is not None else level.image.parent
    return {"PYTHONPATH": str(image_parent), "PYTHONHASHSEED": str(launch.hash_seed)}


def _image_command(level: Level, launch: Launch) -> list[str]:
    words = [str(level.python.executable), "-P", "-s", "-S", "-B", "-m", "sandbox_image"]
    words += ["--session-directory", str(SESSION if level.bwrap is not None else launch.session)]
    words += ["--open-files", str(launch.template.open_files), "--host-patience-s", str(HOST_PATIENCE_S)]
    if launch.uid is not None:
        words += ["--uid", str(launch.uid), "--gid", str(launch.uid)]
    match level.name:
        case LevelName.NAMESPACES:
            return words
        case LevelName.LANDLOCK | LevelName.SEATBELT:
            return [*words, "--confine", level.name.value, "--tmp", str(launch.tmp)]
        case LevelName.NONE:
            return [*words, "--tmp", str(launch.tmp), "--unsafe-unconfined"]


def _with_limits(level: Level, template: Template, words: Sequence[str]) -> list[str]:
    """Limits that hold from the first instruction on. A shell sets them, because code between fork and exec of a
    threaded service is not safe, and because every machine has one."""
    script = f"ulimit -c 0 && ulimit -n {template.open_files}"
    if level.name is not LevelName.SEATBELT:  # macOS keeps no limit on memory
        # Of each process inside, in kilobytes: the kernel's own limit is narrower, the supervisor has no other.
        script += f" && ulimit -d {(template.memory_bytes + SUPERVISOR_BYTES) >> 10}"
    script += ' && exec "$@"'
    return ["/bin/sh", "-c", script, "sh", *words]
