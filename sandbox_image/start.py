"""From the command line to a serving supervisor, in the only safe order: confine, import, fork the zygote, dial.

--session-directory DIR     holds sandbox.sock, gateway.sock and contexts/; only read
--tmp DIR                   the one place where code may write (default /tmp)
--uid N --gid N             when started as root: who to become before anything else
--confine landlock          also Landlock, because no mount namespace hides the host's files
--confine seatbelt          sandbox-exec has confined it already (macOS); it only makes sure of that
--open-files N              descriptors a process may hold
--host-patience-s N         how long to live while no host accepts a stream
--own-uid                   the uid it runs as is no other sandbox's: a limit on its processes counts them alone
--unsafe-unconfined         no seccomp: for debugging this program, nothing else
"""

import gc
import os
import resource
import signal
import sys
from dataclasses import dataclass

from .dialling import Dialler
from .files import WorkingFiles
from .operations import KernelOperations, Station
from .protocol import CONTEXTS_DIRECTORY, GATEWAY_SOCKET, SANDBOX_SOCKET
from .supervisor import EXIT_ZYGOTE_LOST, Supervisor
from .system import ConfinedBy, ConfinementFailed, Identity, System, system_of
from .zygote import ZygoteLost, prepare, start_zygote

EXIT_USAGE = 64
EXIT_NOT_CONFINED = 77

_USUAL_TMP = "/tmp"  # noqa: S108  (inside the sandbox it is its own)
_NEEDED_SIGNALS = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV, signal.SIGBUS}
_NEEDED_SIGNALS |= {signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGCONT}
_REAL_TIME_SIGNALS = getattr(signal, "SIGRTMIN", signal.NSIG)
"""From here on; none on macOS."""


class UsageError(Exception):
    """The command line is not one that a provider of ours writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    session_directory: str
    tmp_directory: str = _USUAL_TMP
    identity: Identity | None = None
    confined_by: ConfinedBy = ""
    open_files: int = 256
    host_patience_s: int = 30
    own_uid: bool = False
    unconfined: bool = False


def main(arguments: list[str], platform: str = sys.platform) -> int:
    """The exit code of the sandbox. `platform` as `sys.platform` has it."""
    try:
        line = read_command_line(arguments)
    except UsageError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return EXIT_USAGE
    try:
        system = system_of(platform)
        tasks_beside = system.count_tasks_beside(is_own_uid=line.own_uid or line.identity is not None)
        return _serve(line, system, _confine(line, system), tasks_beside)
    except ConfinementFailed as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return EXIT_NOT_CONFINED


def _confine(line: CommandLine, system: System) -> list[str]:
    in_force: list[str] = []
    parent = os.getppid()
    if line.identity is not None:
        in_force += system.drop_privileges(line.identity)
    if line.identity is not None or line.confined_by:
        # Whoever started it may have asked for this, but becoming another uid clears it. Not in a container: there the
        # parent is a thread of the container's runtime, and threads come and go.
        system.die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_NOFILE, (line.open_files, line.open_files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _ignore_signals()
    if line.unconfined:
        return [*in_force, "none"]
    return in_force + system.confine_supervisor(
        session_directory=line.session_directory, tmp_directory=line.tmp_directory, by=line.confined_by
    )


def _serve(line: CommandLine, system: System, in_force: list[str], tasks_beside: int | None) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    prepare()  # before the fork: what is imported once is in memory once
    gc.freeze()  # a collection writes to what it looks at, and pages that nobody writes to are shared with the zygote
    zygote = start_zygote(system, confined=not line.unconfined)
    gc.enable()  # `__main__` turned it off for the imports
    if not line.unconfined:
        in_force = in_force + system.confine_supervisor_further()
    station = Station(
        gateway_socket=os.path.join(line.session_directory, GATEWAY_SOCKET),
        contexts_directory=os.path.join(line.session_directory, CONTEXTS_DIRECTORY),
        tmp_directory=line.tmp_directory,
        has_own_tmp=line.tmp_directory != _USUAL_TMP or (not line.unconfined and os.path.ismount(_USUAL_TMP)),
        confined=not line.unconfined,
        confinement=in_force,
        tasks_beside=tasks_beside,
    )
    dialler = Dialler(os.path.join(line.session_directory, SANDBOX_SOCKET), line.host_patience_s)
    files = WorkingFiles(station.tmp_directory, station.contexts_directory)
    operations = KernelOperations(station, zygote)
    try:
        operations.stand_by()
    except ZygoteLost as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return EXIT_ZYGOTE_LOST
    code = Supervisor(operations, files, dialler, zygote).run()
    sys.stderr.flush()
    os._exit(code)  # lanes may be in the middle of something; nothing here needs tidying


def _ignore_signals() -> None:
    """As PID 1 a handler of ours, such as Python's for SIGINT, would let code inside end the sandbox."""
    for number in signal.valid_signals() - _NEEDED_SIGNALS:
        if number < _REAL_TIME_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def read_command_line(arguments: list[str]) -> CommandLine:
    """Closed: an unknown or repeated word is an error.

    Raises:
        UsageError: it cannot be used; the message says why.
    """
    words = _pair_up(arguments)
    session_directory = words.pop("--session-directory", None)
    if session_directory is None:
        raise UsageError("--session-directory is needed")
    uid, gid = words.pop("--uid", None), words.pop("--gid", None)
    if (uid is None) != (gid is None):
        raise UsageError("--uid and --gid belong together")
    confined_by: ConfinedBy
    match words.pop("--confine", None):
        case None:
            confined_by = ""
        case "landlock":
            confined_by = "landlock"
        case "seatbelt":
            confined_by = "seatbelt"
        case unknown:
            raise UsageError(f"--confine knows landlock and seatbelt, found {unknown!r}")
    line = CommandLine(
        session_directory=os.path.abspath(session_directory),
        tmp_directory=os.path.abspath(words.pop("--tmp", _USUAL_TMP)),
        identity=None if uid is None or gid is None else Identity(uid=_number(uid), gid=_number(gid)),
        confined_by=confined_by,
        open_files=_number(words.pop("--open-files", "256")),
        host_patience_s=_number(words.pop("--host-patience-s", "30")),
        own_uid=words.pop("--own-uid", None) is not None,
        unconfined=words.pop("--unsafe-unconfined", None) is not None,
    )
    assert not words
    return line


_WORDS = ("--session-directory", "--tmp", "--uid", "--gid", "--confine", "--open-files", "--host-patience-s")
_SWITCHES = ("--own-uid", "--unsafe-unconfined")


def _pair_up(arguments: list[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word in words or word not in (*_WORDS, *_SWITCHES):
            raise UsageError(f"unknown or repeated argument {word!r}")
        if word in _SWITCHES:
            words[word] = ""
        elif not waiting:
            raise UsageError(f"{word} needs a value")
        else:
            words[word] = waiting.pop(0)
    return words


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):
        raise UsageError(f"expected a positive whole number, found {text!r}")
    return int(text)
