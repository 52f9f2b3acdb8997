"""macOS: the little that a sandbox can do to itself there, and what macOS tells of a process. Implements
`system.System`. Nothing here was ever run on a Mac (docs/decisions/0010); what does not hold, the service's probe
finds.

The walls are Seatbelt's, and it stands around the whole sandbox before this program begins: the first process only
makes sure that it does. A kernel gives up forking. Memory is watched and not limited, because macOS keeps none of the
limits that a process could set.

No signal tells that a parent has ended. The supervisor ends when its host is silent, the zygote when the supervisor's
end of their channel closes; it takes the kernel with it.
"""

import ctypes
import os
import resource
import struct
from functools import cache

from .system import ConfinedBy, ConfinementFailed, Identity

_USAGE = struct.Struct("=16x10Q")
"""`struct rusage_info_v0` of <sys/resource.h>: a uuid, then ten words."""
_USER_TIME, _SYSTEM_TIME, _FOOTPRINT = 0, 1, 7
_USAGE_VERSION = 0
_IS_CONFINED = 1


class MacOS:
    """Implements `system.System`; see there for what each promises."""

    limits_memory = False

    def drop_privileges(self, identity: Identity) -> list[str]:
        raise ConfinementFailed(f"cannot become uid {identity.uid} on macOS: start as an ordinary user")

    def count_tasks_beside(self, *, is_own_uid: bool) -> int | None:
        """macOS has no limit on threads, and a kernel may not fork at all."""
        return None

    def die_with_parent(self, parent: int) -> None:
        if os.getppid() != parent:
            os._exit(0)

    def confine_supervisor(self, *, session_directory: str, tmp_directory: str, by: ConfinedBy) -> list[str]:
        if by != "seatbelt" or not _is_in_seatbelt():
            raise ConfinementFailed("expected to be started by sandbox-exec, found no Seatbelt around this process")
        return ["seatbelt"]

    def confine_supervisor_further(self) -> list[str]:
        return []

    def confine_kernel(self) -> list[str]:
        """macOS counts processes here, not threads; the kernel is one already."""
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        return ["no-fork"]

    def prefer_as_oom_victim(self) -> list[str]:
        return []

    def process_cpu_s(self, pid: int) -> float:
        usage = _usage(pid)
        return (usage[_USER_TIME] + usage[_SYSTEM_TIME]) * _seconds_a_tick()

    def held_bytes(self, pid: int) -> int | None:
        try:
            return _usage(pid)[_FOOTPRINT]
        except OSError:
            return None


def read_usage(record: bytes) -> tuple[int, ...]:
    """The ten words of a `rusage_info_v0`: user and system time in ticks, eighth the memory footprint in bytes."""
    return _USAGE.unpack(record)


def _usage(pid: int) -> tuple[int, ...]:
    """Raises `OSError` when the process is gone, or nothing may be known of it."""
    record = ctypes.create_string_buffer(_USAGE.size)
    ask = _function("proc_pid_rusage")
    if ask(ctypes.c_int(pid), ctypes.c_int(_USAGE_VERSION), record) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return read_usage(record.raw)


@cache
def _seconds_a_tick() -> float:
    """Times are told in ticks of the machine's own clock: a nanosecond each on Intel, more on Apple's processors."""
    ratio = (ctypes.c_uint32 * 2)()
    if _function("mach_timebase_info")(ctypes.byref(ratio)) != 0 or ratio[1] == 0:
        raise OSError("macOS does not tell the length of its ticks")
    return ratio[0] / ratio[1] / 1e9


def _is_in_seatbelt() -> bool:
    """As macOS itself says. Where there is no such call, this is not macOS and nothing is confined."""
    try:
        ask = _function("sandbox_check")
    except OSError:
        return False
    return bool(ask(ctypes.c_int(os.getpid()), None, ctypes.c_int(0)) == _IS_CONFINED)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _function(name: str) -> "ctypes._NamedFuncPointer":
    """Raises `OSError` where the system's library has none of this name."""
    try:
        return getattr(_library(), name)  # type: ignore[no-any-return]
    except AttributeError as error:
        raise OSError(f"the system's library has no {name}") from error
