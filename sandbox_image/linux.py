"""Linux: what a sandbox does to itself before anything else, a kernel once more before its first cell, and what Linux
tells of a process. Implements `system.System`."""

import ctypes
import os
import signal
import struct
import time
from contextlib import suppress

from . import landlock, native, seccomp
from .syscalls import this_architecture
from .system import ConfinedBy, ConfinementFailed, Identity

SUPERVISOR_OOM_SCORE = 500
KERNEL_OOM_SCORE = 1000
_LAST_CAPABILITY = 63
_OTHER_TASKS_MAY_GROW = 4_096
_FILE_BYTES_A_TABLE_BYTE = 256
"""Mapped texts need tables as well: one byte for 512 at best."""


class Linux:
    """Implements `system.System`; see there for what each promises."""

    limits_memory = True

    def drop_privileges(self, identity: Identity) -> list[str]:
        bounded = _empty_bounding_set()
        try:
            os.setgroups([])
            os.setresgid(identity.gid, identity.gid, identity.gid)
            os.setresuid(identity.uid, identity.uid, identity.uid)
            # struct cap_user_header (version 3, self), then two empty sets of three words
            header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
            native.system_call(this_architecture().numbers["capset"], header, ctypes.create_string_buffer(24))
        except OSError as error:
            raise ConfinementFailed(f"cannot become uid {identity.uid}: {error.strerror}") from error
        if os.getresuid() != (identity.uid,) * 3 or os.getresgid() != (identity.gid,) * 3 or os.getgroups():
            raise ConfinementFailed(f"did not wholly become uid {identity.uid}")
        return ["uid", *(["no-capabilities"] if bounded else [])]

    def count_tasks_beside(self, *, is_own_uid: bool) -> int | None:
        """Early, because Landlock will hide /proc."""
        return 0 if is_own_uid or _counts_processes_alone() else _leave_room_for_tasks()

    def die_with_parent(self, parent: int) -> None:
        """By a signal of Linux's own, where no PID namespace ends the rest."""
        native.process_control(native.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)

    def confine_supervisor(self, *, session_directory: str, tmp_directory: str, by: ConfinedBy) -> list[str]:
        if by == "seatbelt":
            raise ConfinementFailed("expected to be confined by Seatbelt, which is macOS's; this is Linux")
        in_force = _set_oom_score(SUPERVISOR_OOM_SCORE)
        try:
            native.process_control(native.PR_SET_NO_NEW_PRIVS, 1)
            in_force += ["no-new-privs", "non-dumpable"]
            if by == "landlock":
                version = landlock.restrict(session_directory=session_directory, tmp_directory=tmp_directory)
                in_force.append(f"landlock:{version}")
            seccomp.confine_sandbox()
        except OSError as error:
            raise ConfinementFailed(f"cannot confine the sandbox: {error}") from error
        return [*in_force, "seccomp"]

    def confine_supervisor_further(self) -> list[str]:
        try:
            seccomp.confine_supervisor()
        except OSError as error:
            raise ConfinementFailed(f"cannot confine the supervisor: {error}") from error
        return ["seccomp:supervisor"]

    def confine_kernel(self) -> list[str]:
        """The second filter."""
        seccomp.confine_kernel()
        return ["seccomp:kernel"]

    def prefer_as_oom_victim(self) -> list[str]:
        return _set_oom_score(KERNEL_OOM_SCORE)

    def process_cpu_s(self, pid: int) -> float:
        """Without /proc, which Landlock hides."""
        return time.clock_gettime(~pid << 3 | 2)

    def held_bytes(self, pid: int) -> int | None:
        """Where /proc is hidden (Landlock) there is nothing to look at."""
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                return held_bytes(file.read())
        except OSError:  # hidden, or the process has ended
            return None


def held_bytes(status: bytes) -> int | None:
    """What a `/proc/<pid>/status` says that no file backs; None where it does not say (gVisor)."""
    sizes: dict[bytes, int] = {}
    for line in status.splitlines():
        name, _, rest = line.partition(b":")
        words = rest.split()
        if words[1:] == [b"kB"] and words[0].isdigit():
            sizes[name] = int(words[0]) << 10
    if b"RssAnon" not in sizes:
        return None
    tables = sizes.get(b"VmPTE", 0) - sizes.get(b"RssFile", 0) // _FILE_BYTES_A_TABLE_BYTE
    return sizes[b"RssAnon"] + sizes.get(b"RssShmem", 0) + sizes.get(b"VmSwap", 0) + max(0, tables)


def _empty_bounding_set() -> bool:
    """False where CAP_SETPCAP is lacking: no-new-privs then keeps the set useless."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            if native.process_control(native.PR_CAPBSET_READ, capability) == 0:
                continue
        except OSError:
            return True  # past the last capability that this Linux knows
        try:
            native.process_control(native.PR_CAPBSET_DROP, capability)
        except OSError:
            return False
    return True


def _set_oom_score(score: int) -> list[str]:
    """Only a dumpable process owns its files in /proc, so it is dumpable for this one write and never again."""
    try:
        native.process_control(native.PR_SET_DUMPABLE, 1)
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:  # no /proc here, or Landlock hides it; the score of the parent stands
        return []
    finally:
        native.process_control(native.PR_SET_DUMPABLE, 0)
    return [f"oom-score:{score}"]


def _counts_processes_alone() -> bool:
    """Whether a limit on processes would count only this sandbox's: inside a user namespace of its own it does."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def _leave_room_for_tasks() -> int | None:
    """Where the uid is somebody's: how many tasks they have, and room for more of theirs. None where /proc is hidden.

    A limit that high is far from what a sandbox was given, but it ends a bomb of threads before the machine has no
    number left for another process.
    """
    tasks = 0
    try:
        for process in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):  # it ended meanwhile
                if os.stat(f"/proc/{process}").st_uid == os.getuid():
                    tasks += len(os.listdir(f"/proc/{process}/task"))
    except OSError:
        return None
    return tasks + _OTHER_TASKS_MAY_GROW
