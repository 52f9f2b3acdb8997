"""Which containers must go. Pure; `containers` looks and acts.

A container's owner is whoever holds the lock of its session directory's owner file. The operating system lets go of
that lock when the owner dies, however it dies, so nothing has to be guessed from ages or heartbeats.
"""

from collections.abc import Iterable
from dataclasses import dataclass

LEAST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundContainer:
    """A container with our labels, as the engine tells of it."""

    container_id: str
    sandbox_id: str
    """As labelled; anything, if somebody else made it."""
    uid: int | None
    owner: str
    """As labelled; empty where the label is missing, and then it is nobody's."""
    runs: bool
    deadline_s: int
    """0 where the label is missing or no number: past."""


def to_remove(
    found: Iterable[FoundContainer], *, starting: frozenset[str], orphans: frozenset[str], now_s: float
) -> tuple[FoundContainer, ...]:
    """Those past their deadline, those that ended, and those whose owner is dead; never one that is being started."""
    return tuple(
        container
        for container in found
        if container.sandbox_id not in starting
        and (not container.runs or container.deadline_s <= now_s or container.sandbox_id in orphans)
    )


def pause_s(failures: int) -> float:
    """How long to leave the engine alone after so many passes in a row that failed."""
    return min(LEAST_PAUSE_S * (1 << min(max(failures - 1, 0), 16)), LONGEST_PAUSE_S)
