"""One attack, and what counts as held."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

BackendName = Literal["docker+runc", "docker+runsc", "process", "process-landlock"]
RUNC: BackendName = "docker+runc"
RUNSC: BackendName = "docker+runsc"
PROCESS: BackendName = "process"
LANDLOCK: BackendName = "process-landlock"


class Harm(StrEnum):
    """What the attack spoils for the next one."""

    NOTHING = "nothing"
    KERNEL = "kernel"
    """The kernel is replaced afterwards."""
    SANDBOX = "sandbox"
    """It gets a sandbox of its own."""


REFUSED = frozenset({"EPERM", "EACCES", "ENOSYS"})
"""A call that reached nobody."""
ABSENT = frozenset({"ENOENT", "ENOTDIR", "EACCES"})
SHUT = REFUSED | ABSENT | {"EROFS", "EXDEV", "ELOOP"}
"""A path that leads nowhere or takes nothing."""
ENDED = frozenset({"killed", "timed_out"})
SANDBOX_GONE = "sandbox_gone"
AFTERWARDS = "then:"
"""Before every word of a second cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An attack from a cell.

    `code` runs after the words of `attack`; it says words with `say`, and every one of them must be among those
    expected. A cell that raises says `raised:TYPE`, one that was ended `killed` or `timed_out`.
    """

    name: str
    code: str
    held: frozenset[str]
    """What may come of it, wherever nothing else is written in `but`."""
    but: Mapping[BackendName, frozenset[str]] = field(default_factory=dict)
    """What may come of it on a backend that is different, with the reason at the case."""
    harm: Harm = Harm.NOTHING
    then: str = ""
    """Code of a second cell: what the attack may have left behind."""
    then_held: frozenset[str] = frozenset({"answers"})
    """What has to come of that one, whatever came of the first."""
    takes_next: bool = False
    """What it leaves is a kernel that dies of it: one more cell may be `killed`, and `then` is run once more."""
    absent: frozenset[BackendName] = frozenset()
    """Backends where the question makes no sense; there is no row."""
    active_limit_s: float = 20.0
    ends_itself: bool = False
    """What it is about is its last expression."""
    is_heavy: bool = False
    """Takes a second or more; `--short` runs a sample of these."""

    def expected(self, backend: BackendName) -> frozenset[str]:
        """All words that a row which holds may have; those of the second cell begin with `then:`."""
        held = self.but.get(backend, self.held)
        return held | {f"{AFTERWARDS}{word}" for word in self.then_held} if self.then else held

    def is_whole(self, found: Collection[str]) -> bool:
        """Whether every cell that was to run has said something; after a lost sandbox there is no second one."""
        said_afterwards = [word for word in found if word.startswith(AFTERWARDS)]
        return len(found) > len(said_afterwards) and (bool(said_afterwards) or not self.then or SANDBOX_GONE in found)


def words(*held: str) -> frozenset[str]:
    return frozenset(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one attack on one backend."""

    case: str
    held: bool
    found: tuple[str, ...]
    expected: tuple[str, ...]
    harm: tuple[str, ...] = ()
    was_skipped: bool = False
    """It was to run here and did not; it has not held."""
