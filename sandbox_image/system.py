"""What a sandbox asks of the operating system beyond POSIX, and the one place where it is decided which one this is.

`linux` and `macos` answer; neither is imported where it cannot work. Everything else of this package runs wherever
CPython has `fork`, unix sockets and `poll`.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

ConfinedBy = Literal["", "landlock", "seatbelt"]
"""What hides the host's files: whoever started the sandbox, it itself by Landlock, or Seatbelt, started around it."""


class ConfinementFailed(Exception):
    """A measure that was asked for cannot be put in force; the sandbox must not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who to become, when started as root."""

    uid: int
    gid: int


class System(Protocol):
    """One operating system. What puts something in force says what, in the words of `ClaimReply.confinement`."""

    @property
    def limits_memory(self) -> bool:
        """Whether a process can bound its own memory."""
        ...

    def drop_privileges(self, identity: Identity) -> list[str]:
        """Become `identity` for good: no groups, no capabilities, nothing to get them back with.

        Raises:
            ConfinementFailed: not root, or something was kept.
        """
        ...

    def count_tasks_beside(self, *, is_own_uid: bool) -> int | None:
        """How many tasks of others a limit on the uid's tasks has to leave room for; None where it cannot be set.
        Asked before anything is confined."""
        ...

    def die_with_parent(self, parent: int) -> None:
        """Called by each process, right after its fork; at once where the parent has ended already."""
        ...

    def confine_supervisor(self, *, session_directory: str, tmp_directory: str, by: ConfinedBy) -> list[str]:
        """On the supervisor, before it forks.

        Raises:
            ConfinementFailed: this machine cannot.
        """
        ...

    def confine_supervisor_further(self) -> list[str]:
        """Once the zygote is forked, which alone forks from then on.

        Raises:
            ConfinementFailed: this machine cannot.
        """
        ...

    def confine_kernel(self) -> list[str]:
        """What a kernel does not need. Raises `OSError` when it does not hold: the kernel must not live then."""
        ...

    def prefer_as_oom_victim(self) -> list[str]:
        """The kernel goes before the supervisor, and both before whatever else runs on the machine."""
        ...

    def process_cpu_s(self, pid: int) -> float:
        """CPU time of all threads of another process of ours. Raises `OSError` when it is gone, or not told."""
        ...

    def held_bytes(self, pid: int) -> int | None:
        """The memory that a process holds and no file backs; None where that is not told, or the process is gone."""
        ...


def system_of(platform: str) -> System:
    """By the name that `sys.platform` has for it.

    Raises:
        ConfinementFailed: no sandbox of ours can run there.
    """
    match platform:
        case "linux":
            from .linux import Linux  # noqa: PLC0415  (its calls are in no other system's library)

            return Linux()
        case "darwin":
            from .macos import MacOS  # noqa: PLC0415  (likewise)

            return MacOS()
        case _:
            raise ConfinementFailed(f"expected Linux or macOS, found {platform}")
