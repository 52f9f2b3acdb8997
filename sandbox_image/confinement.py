"""What a sandbox does to itself before anything else, and a kernel once more before its first cell.

Each step says what it put in force, in the words of `ClaimReply.confinement`.
"""

import ctypes
import os
import resource
import signal
import struct
from contextlib import suppress
from dataclasses import dataclass

from . import landlock, native, seccomp
from .syscalls import this_architecture

SUPERVISOR_OOM_SCORE = 500
KERNEL_OOM_SCORE = 1000
_LAST_CAPABILITY = 63
_OTHER_TASKS_MAY_GROW = 4_096


class ConfinementFailed(Exception):
    """A measure that was asked for cannot be put in force; the sandbox must not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who to become, when started as root."""

    uid: int
    gid: int


def drop_privileges(identity: Identity) -> list[str]:
    """Become `identity` for good: no groups, no capabilities, nothing to get them back with.

    Raises:
        ConfinementFailed: not root, or something was kept.
    """
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


def confine_supervisor(*, session_directory: str, tmp_directory: str, with_landlock: bool) -> list[str]:
    """On the supervisor, before it forks.

    Raises:
        ConfinementFailed: this machine cannot.
    """
    in_force = _set_oom_score(SUPERVISOR_OOM_SCORE)
    try:
        native.process_control(native.PR_SET_NO_NEW_PRIVS, 1)
        in_force += ["no-new-privs", "non-dumpable"]
        if with_landlock:
            version = landlock.restrict(session_directory=session_directory, tmp_directory=tmp_directory)
            in_force.append(f"landlock:{version}")
        seccomp.confine_sandbox()
    except OSError as error:
        raise ConfinementFailed(f"cannot confine the sandbox: {error}") from error
    return [*in_force, "seccomp"]


def confine_supervisor_further() -> list[str]:
    """Once the zygote is forked, which alone forks from then on.

    Raises:
        ConfinementFailed: this machine cannot.
    """
    try:
        seccomp.confine_supervisor()
    except OSError as error:
        raise ConfinementFailed(f"cannot confine the supervisor: {error}") from error
    return ["seccomp:supervisor"]


def confine_kernel() -> list[str]:
    """The second filter. Raises `OSError` when it does not hold: the kernel must not live then."""
    seccomp.confine_kernel()
    return ["seccomp:kernel"]


def die_with_parent(parent: int) -> None:
    """So that nothing is left when the parent is killed and no PID namespace ends the rest."""
    native.process_control(native.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(0)


def prefer_as_oom_victim() -> list[str]:
    """The kernel goes before the supervisor, and both before whatever else runs on the machine."""
    return _set_oom_score(KERNEL_OOM_SCORE)


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


def limit_descriptors(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def counts_processes_alone() -> bool:
    """Whether a limit on processes would count only this sandbox's: inside a user namespace of its own it does."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def leave_room_for_tasks() -> int | None:
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
