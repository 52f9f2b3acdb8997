"""The argument list of bubblewrap, as a pure function, so that a test can pin the whole profile.

The sandbox's root is an empty tmpfs that ends read-only; in it stand, read-only, the files Python needs, the sandbox
image and the session directory; `/tmp` and `/dev/shm` are the only places to write, both of bounded size. There is no
`/dev` of bubblewrap's own making, because that one is a writable tmpfs without a bound: four device nodes are enough.
bubblewrap cannot mount noexec; the image's seccomp filter and an empty set of programs to execute stand in for it.

As root no user namespace is made: the supervisor keeps CAP_SETUID and CAP_SETGID just long enough to become a uid of
its own (its directories may be readable to root only, so bubblewrap must not drop it earlier). As an ordinary user
everything happens in a user namespace that cannot nest another.

The first process inside is bubblewrap's own, which reaps and does nothing else. It stays of the uid of the bubblewrap
outside, so that the death signal of `--die-with-parent` reaches it: to a first process that has become another uid
Linux refuses it (its sender by then has no capability), and the sandbox would outlive a killed service. With the first
process everything inside ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGE_PARENT = Path("/rlm/image")
SESSION = Path("/rlm/session")
SHM_BYTES = 64 << 20
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_TELLING = """
    buddyinfo cmdline config.gz crypto diskstats interrupts iomem ioports kallsyms kcore key-users keys kmsg
    kpagecgroup kpagecount kpageflags locks mdstat modules pagetypeinfo partitions sched_debug schedstat slabinfo
    softirqs swaps timer_list vmallocinfo vmstat zoneinfo
"""
TELLING_FILES = tuple(Path("/proc") / name for name in _TELLING.split())
"""What /proc tells of the whole machine though the sandbox has a /proc of its own, and no Python needs."""
TELLING_DIRECTORIES = (Path("/proc/pressure"),)
"""Likewise."""
COMMANDING_FILES = tuple(Path("/proc") / name for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))
"""By which Linux is told what to do. Their modes refuse most of it already; some may be opened by everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one sandbox's bubblewrap is told."""

    bwrap: Path
    as_root: bool
    python_files: Sequence[Path]
    """Files and directories that Python needs, each visible at its own path."""
    hidden: Sequence[Path]
    """Directories below those that stay empty inside (installed packages)."""
    image: Path
    """The `sandbox_image` package."""
    session: Path
    tmp_bytes: int
    masked: Sequence[Path]
    """Of `TELLING_FILES`, those that this machine has."""
    emptied: Sequence[Path]
    """Of `TELLING_DIRECTORIES`, likewise."""
    read_only: Sequence[Path]
    """Of `COMMANDING_FILES`, those that this machine has."""
    environment: Mapping[str, str]
    status_descriptor: int
    """Where bubblewrap writes the pid of the process inside."""


def bubblewrap_arguments(profile: Profile, command: Sequence[str]) -> list[str]:
    """The whole command line."""
    return [
        str(profile.bwrap),
        *_namespaces(as_root=profile.as_root),
        *("--new-session", "--die-with-parent"),
        *("--info-fd", str(profile.status_descriptor)),
        *_file_system(profile),
        "--clearenv",
        *(word for name, value in sorted(profile.environment.items()) for word in ("--setenv", name, value)),
        *("--chdir", "/tmp"),  # noqa: S108 - the sandbox's own
        "--",
        *command,
    ]


def _namespaces(*, as_root: bool) -> list[str]:
    shared = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    shared += ["--hostname", "sandbox", "--cap-drop", "ALL"]
    if as_root:
        return [*shared, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    return ["--unshare-user", "--disable-userns", *shared]


def _file_system(profile: Profile) -> list[str]:
    words: list[str] = []
    for directory in _parents(profile.python_files):
        words += ["--perms", "0755", "--dir", str(directory)]
    for path in profile.python_files:
        words += ["--ro-bind", str(path), str(path)]
    for path in profile.hidden:
        words += ["--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
    for directory in _parents([IMAGE_PARENT / profile.image.name, SESSION]):
        words += ["--perms", "0755", "--dir", str(directory)]
    words += ["--ro-bind", str(profile.image), str(IMAGE_PARENT / profile.image.name)]
    words += ["--ro-bind", str(profile.session), str(SESSION)]
    words += ["--proc", "/proc"]
    for path in profile.masked:
        words += ["--ro-bind", "/dev/null", str(path)]  # a device where there may be none: it cannot be opened
    for path in profile.emptied:
        words += ["--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
    for path in profile.read_only:
        words += ["--ro-bind", str(path), str(path)]
    words += ["--perms", "0755", "--dir", "/dev"]
    for device in _DEVICES:
        words += ["--dev-bind", device, device]
    for writable, size_bytes in (("/tmp", profile.tmp_bytes), ("/dev/shm", SHM_BYTES)):  # noqa: S108 - inside
        words += ["--perms", "1777", "--size", str(size_bytes), "--tmpfs", writable]
    return [*words, "--remount-ro", "/"]


def _parents(paths: Sequence[Path]) -> list[Path]:
    """Every directory above them, outermost first. Left to bubblewrap they would be closed to uids but its own."""
    parents = {parent for path in paths for parent in path.parents if parent != Path("/")}
    return sorted(parents, key=lambda path: (len(path.parts), path))
