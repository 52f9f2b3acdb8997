"""What the process that reads a document may no longer do, once its libraries are imported.

Bounds that always hold: memory, processor time, no file can be written, no core dump. Bounds that hold where Linux
offers them, and are taken silently where it does not: no file can be opened but Python's own (Landlock), no TCP
connection (Landlock 4), no signal to other processes (Landlock 6), no network at all (a network namespace). The
readers are meant to be safe without the second kind: it narrows what a flaw in one of them could do.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sysconfig
from pathlib import Path

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


def confine(*, memory_bytes: int, cpu_s: int) -> None:
    """Give up what reading a document does not need. Irrevocable."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _restrict_files(libc)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_OPEN_FILES, MOST_OPEN_FILES))


def _restrict_files(libc: ctypes.CDLL) -> None:
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return
    rights = (1 << _FILE_RIGHTS_OF_VERSION.get(version, _FILE_RIGHTS_SINCE_5)) - 1
    attributes = struct.pack(
        "=QQQ", rights, _TCP_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0
    )  # an older Linux takes the longer structure as long as what it does not know is zero
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return
    try:
        # Codecs and the like are imported when they are first needed.
        for key in ("stdlib", "platstdlib", "purelib", "platlib"):
            with contextlib.suppress(OSError):
                directory = os.open(sysconfig.get_path(key), os.O_PATH | os.O_DIRECTORY)
                rule = struct.pack("=Qi", _EXECUTE_AND_READ, directory)
                libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
                os.close(directory)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
