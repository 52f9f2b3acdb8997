"""Riders: what is written behind an append, in the same round trip and the same flush of the disk, if it took place.

The room that appends knows nothing of the room that rides: it hands over a mark, and gives back the store's reply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.store.connection import Reply, ScriptCall


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendMark:
    """What an append leaves in the store, and nothing else does: a script that does not find it so does nothing."""

    key: str
    field: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rider:
    """One item on its way."""

    item: Any
    script_call: Callable[[Sequence[Any], AppendMark], ScriptCall]
    """The idempotent call that writes items behind the append. Riders for which it is the same one share a call."""
    landed: Callable[[Sequence[Any], Reply], None]
    """Takes in what the store replied about these items; it must not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boarded:
    """The riders of one kind, with the script call that writes them all."""

    items: Sequence[Any]
    script_call: ScriptCall
    landed: Callable[[Sequence[Any], Reply], None]

    def land(self, reply: Reply) -> None:
        """Hand the store's reply to whoever sent the riders."""
        self.landed(self.items, reply)


def boarding(riders: Sequence[Rider], mark: AppendMark) -> list[Boarded]:
    """The script calls for all riders, in the order in which their kinds first come."""
    kinds: dict[Callable[[Sequence[Any], AppendMark], ScriptCall], list[Rider]] = {}
    for rider in riders:
        kinds.setdefault(rider.script_call, []).append(rider)
    found = []
    for script_call, alike in kinds.items():
        items = [rider.item for rider in alike]
        found.append(Boarded(items=items, script_call=script_call(items, mark), landed=alike[0].landed))
    return found
