"""Fences: the right to write, as a server can check it.

Who drives something (a run, a session) holds its epoch, a number that goes up whenever somebody else takes it over. A
fenced script compares the epochs in the same step in which it writes, so that a replica that was paused, cut off or
given up for dead changes nothing any more, whatever it still believes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fence:
    """Keys of hashes, each with the `epoch` that has to stand in it still. Without any, everybody may write."""

    epochs: tuple[tuple[str, int], ...] = ()


NO_FENCE = Fence()
"""Of a write that is for nobody's run in particular, or that anybody may do."""

STALE = b"stale"
"""What a fenced script replies, instead of doing anything, when an epoch does not stand any more."""
