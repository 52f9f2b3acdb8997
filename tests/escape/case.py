"""One attack, and what counts as held."""

from collections.abc import Mapping
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
    """Code of a second cell, whose words count too: what the attack may have left behind."""
    absent: frozenset[BackendName] = frozenset()
    """Backends where the question makes no sense; there is no row."""
    active_limit_s: float = 20.0
    ends_itself: bool = False
    """What it is about is its last expression."""
    is_heavy: bool = False
    """Takes a second or more; `--short` runs a sample of these."""

    def expected(self, backend: BackendName) -> frozenset[str]:
        return self.but.get(backend, self.held)


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
