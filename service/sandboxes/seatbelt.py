"""The profile of macOS's Seatbelt and the command line that puts it in force. Pure, so that a test can pin it.

Denied is what is not allowed here. Allowed are: to read Python's files, the image and the session directory, and what
the loader reads of macOS itself; to write beneath one private directory; to dial the session's own two sockets; to
fork, which the zygote needs and a kernel gives up (`sandbox_image.macos`); to execute Python, which is how
`sandbox-exec` starts it; signals to oneself and one's children. There is no network, no mach service, no device but
/dev/null and random numbers, and no hard link, by which a context's file could be had under a name that may be
written to.

Rules were taken from what others are known to use; none was ever tried on a Mac by us (docs/decisions/0010). A macOS
that reads one of them otherwise does not start the sandbox, or the probe finds out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_image.protocol import GATEWAY_SOCKET, SANDBOX_SOCKET
from service.sandboxes.port import SandboxRefused

SANDBOX_EXEC = Path("/usr/bin/sandbox-exec")
"""Never another one that PATH has."""
LACKS = (
    "Seatbelt bounds files and network only: memory is watched and not limited, every system call of macOS is open to "
    "a cell, it sees the processes of this machine, and it can fill the disk; this level was never tried on a Mac by us"
)
"""Said at every start."""
_SYSTEM_DIRECTORIES = (
    *("/System/Library", "/System/Cryptexes/OS", "/System/Volumes/Preboot/Cryptexes/OS", "/usr/lib"),
    *("/private/var/db/dyld", "/private/var/db/timezone", "/usr/share/zoneinfo"),
)
"""What the loader and the C library read of macOS itself. Nobody's own files stand there."""
_SYSTEM_FILES = ("/", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/private/etc/localtime")
_SYSTEM_VALUES = """
    hw.activecpu hw.byteorder hw.cacheconfig hw.cachelinesize hw.logicalcpu hw.logicalcpu_max hw.machine hw.memsize
    hw.ncpu hw.pagesize hw.pagesize_compat hw.physicalcpu hw.physicalcpu_max kern.argmax kern.hostname kern.osrelease
    kern.ostype kern.osversion kern.secure_kernel kern.version sysctl.proc_translated vm.loadavg
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatbeltProfile:
    """What one sandbox may touch. Every path as the operating system resolves it: Seatbelt looks at what a link leads
    to."""

    executables: Sequence[Path]
    """Python; of a framework build also the program that this one turns itself into."""
    python_files: Sequence[Path]
    hidden: Sequence[Path]
    """Directories below those that cannot be read (installed packages)."""
    image: Path
    session: Path
    tmp: Path


def seatbelt_arguments(profile: SeatbeltProfile, command: Sequence[str]) -> list[str]:
    """The whole command line. Raises `SandboxRefused`, as `render` does."""
    return [str(SANDBOX_EXEC), "-p", render(profile), *command]


def render(profile: SeatbeltProfile) -> str:
    """The profile in Seatbelt's language, one rule a line; of rules that match, the last one counts.

    Raises:
        SandboxRefused: a path cannot be named in it, or what may be written to holds what may be read or executed.
    """
    readable = [*profile.executables, *profile.python_files, profile.image, profile.session]
    for path in readable:
        if path == profile.tmp or profile.tmp in path.parents or path == Path("/"):
            raise SandboxRefused(f"{path} would be open to writing by a sandbox: use another data directory")
    sockets = [profile.session / SANDBOX_SOCKET, profile.session / GATEWAY_SOCKET]
    system = [Path(path) for path in _SYSTEM_DIRECTORIES]
    lines = [
        "(version 1)",
        "(deny default)",
        "(deny process-info*)",
        "(allow process-info-pidinfo (target self))",
        "(allow process-info-rusage (target same-sandbox))",
        "(allow process-fork)",
        _allow("process-exec", _all("literal", profile.executables)),
        "(allow signal (target self))",
        "(allow signal (target children))",
        _allow("sysctl-read", f"(sysctl-name {' '.join(_string(name) for name in _SYSTEM_VALUES.split())})"),
        _allow("file-read*", _all("literal", map(Path, _SYSTEM_FILES))),
        _allow("file-write-data", '(literal "/dev/null")'),
        _allow("file-read* file-map-executable", _all("subpath", [*system, *profile.executables])),
        _allow("file-read-metadata", _all("literal", _parents([*system, *readable, profile.tmp]))),
        _allow("file-read* file-map-executable", _all("subpath", profile.python_files)),
        _allow("file-read*", _all("subpath", [profile.image, profile.session])),
        _allow("file-read* file-write*", _all("subpath", [profile.tmp])),
        "(allow system-socket (socket-domain AF_UNIX))",
        *(_allow("network-outbound", f"(remote unix-socket (path-literal {quoted(path)}))") for path in sockets),
    ]
    if profile.hidden:
        lines.append(f"(deny file-read* file-map-executable {_all('subpath', profile.hidden)})")
    return "\n".join(lines) + "\n"


def quoted(path: Path) -> str:
    """A path as a string of Seatbelt's language, which is a Scheme: only quotes and backslashes mean anything there.

    Raises:
        SandboxRefused: it is relative, leads upwards, or has characters that no path of a sane machine has.
    """
    text = str(path)
    is_plain = all(character.isprintable() for character in text)
    if not path.is_absolute() or ".." in path.parts or not is_plain:
        raise SandboxRefused(
            f"a Seatbelt profile cannot name the path {text!r}: use an absolute one without .. and control characters"
        )
    return _string(text)


def _string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _allow(operations: str, filters: str) -> str:
    return f"(allow {operations} {filters})"


def _all(kind: str, paths: Iterable[Path]) -> str:
    return " ".join(f"({kind} {quoted(path)})" for path in paths)


def _parents(paths: Iterable[Path]) -> list[Path]:
    """Every directory above them, outermost first: to come to a file, one has to be told that they are there."""
    return sorted({parent for path in paths for parent in path.parents}, key=lambda path: (len(path.parts), path))
