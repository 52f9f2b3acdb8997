"""What the process that reads a document may no longer do, once its libraries are imported.

Three walls, all of them or no conversion: limits of the system (memory, processor time, nothing written, no core dump);
Landlock (no file can be opened but Python's own); and seccomp filters (no socket, no process, no thread, no program, no
signal to others, no change to any file's content, name, mode or times). A network namespace is taken where it can be
had: without sockets it is a second wall before the same thing.

The filters are those of a kernel in a sandbox, with more taken away. That is the one place where the service's tree
imports them: this module runs in the reader's process only, which is on the untrusted side.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
from pathlib import Path

from sandbox_image import seccomp
from sandbox_image.syscalls import this_architecture

MOST_OPEN_FILES = 64

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
# These numbers are the same on every architecture.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_EXECUTE_AND_READ = 0b1101
"""LANDLOCK_ACCESS_FS_EXECUTE, READ_FILE and READ_DIR."""
_FILE_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_RIGHTS_SINCE_5 = 16
_TCP_RIGHTS = 0b11
_SCOPES = 0b11
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC

_TAKEN_AWAY = (
    # A descriptor opens for reading, or not at all: for Landlock a file of Python's own may be truncated before ABI 3.
    seccomp.Rule(
        names=("openat",),
        action=seccomp.ALLOW,
        checks=(seccomp.Check(argument=2, among=(0,), mask=_WRITING),),
        otherwise=seccomp.EPERM,
    ),
    seccomp.Rule(
        names=("open",),
        action=seccomp.ALLOW,
        checks=(seccomp.Check(argument=1, among=(0,), mask=_WRITING),),
        otherwise=seccomp.EPERM,
    ),
    # Limits are asked for, never set: a service that runs as root could raise them again.
    seccomp.Rule(
        names=("prlimit64",),
        action=seccomp.ALLOW,
        checks=(seccomp.Check(argument=2, among=(0,), wide=True),),
        otherwise=seccomp.EPERM,
    ),
    seccomp.Rule(
        # `clone` whole: no reader needs a thread, and so nobody has to count them.
        names=(
            *("clone", "socketpair", "shutdown", "recvmsg", "recvfrom", "creat", "ftruncate", "fallocate"),
            *("rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat"),
            *("link", "linkat", "symlink", "symlinkat", "setrlimit", "flock"),
        ),
        action=seccomp.EPERM,
    ),
)


class Unconfined(Exception):
    """This machine cannot put a wall in force; the message is a sentence's end for a person."""


def confine(*, memory_bytes: int, cpu_s: int) -> None:
    """Give up what reading a document does not need. Irrevocable.

    Raises:
        Unconfined: and then no document must be read.
    """
    if sys.platform != "linux":
        raise Unconfined(f"needs Linux, and this is {sys.platform}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Unconfined("needs a Linux with no-new-privs")
    if not _restrict_files(libc):
        raise Unconfined("needs Landlock (Linux 5.13 or newer, with `landlock` among its security modules)")
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_OPEN_FILES, MOST_OPEN_FILES))
    try:
        _restrict_calls()
    except OSError as error:
        raise Unconfined(f"needs seccomp filters on x86_64 or aarch64 ({error})") from error


def _restrict_calls() -> None:
    architecture = this_architecture()
    own = seccomp.assemble(architecture, _TAKEN_AWAY, seccomp.ALLOW)
    # Of several filters the strictest answer counts. The kernel's allows no further one, so it is the last.
    seccomp.install(own)
    seccomp.install(seccomp.sandbox_filter(architecture))
    seccomp.install(seccomp.kernel_filter(architecture, os.getpid()))


def _restrict_files(libc: ctypes.CDLL) -> bool:
    """Whether it is in force."""
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS_OF_VERSION.get(version, _FILE_RIGHTS_SINCE_5)) - 1
    attributes = struct.pack(
        "=QQQ", rights, _TCP_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )  # an older Linux takes the longer structure as long as what it does not know is zero
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        # Codecs and the like are imported when they are first needed.
        for key in ("stdlib", "platstdlib", "purelib", "platlib"):
            with contextlib.suppress(OSError):
                directory = os.open(sysconfig.get_path(key), os.O_PATH | os.O_DIRECTORY)
                rule = struct.pack("=Qi", _EXECUTE_AND_READ, directory)
                libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
                os.close(directory)
        return bool(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)
