"""The answers of host calls that may be asked for once more: by a sandbox that lost its connection, and by a re-run.

All of them stand in the journal. Small ones are kept here too, and large ones as long as there is room: a cell may be
answered without end, and its answers must not fill our memory.
"""

from collections.abc import Iterable
from typing import Any

from service.ids import CellId
from service.loop.values import HostCallKey
from service.runs.host_calls.values import HostCallItem

LARGE_CHARS = 64 << 10
"""Of an answer: smaller ones are kept whatever there is."""
KEPT_CHARS = 32 << 20
"""Of all large answers together that one run keeps in memory."""


class Answers:
    """By the key of the call. With `kept_chars` None all are kept."""

    def __init__(self, kept_chars: int | None) -> None:
        self._kept_chars = kept_chars
        self._found: dict[HostCallKey, list[HostCallItem]] = {}
        self._large: dict[HostCallKey, int] = {}
        """How many characters those have that count."""
        self._let_go: set[HostCallKey] = set()
        """Recorded, and in the journal alone."""

    def __len__(self) -> int:
        return len(self._found) + len(self._let_go)

    def __contains__(self, key: HostCallKey) -> bool:
        """Whether there is a record, here or in the journal alone."""
        return key in self._found or key in self._let_go

    def get(self, key: HostCallKey) -> list[HostCallItem] | None:
        """The answer, where it is kept here."""
        return self._found.get(key)

    def keep(self, key: HostCallKey, items: list[HostCallItem]) -> None:
        """A recorded answer, which the journal has."""
        self._forget(key)
        chars = _chars_of(items)
        if chars <= LARGE_CHARS or self._has_room(chars):
            self._found[key] = items
            if chars > LARGE_CHARS:
                self._large[key] = chars
        else:
            self._let_go.add(key)

    def let_go_of_large(self) -> None:
        """Make room: what is large is in the journal alone from now on, unless all are kept."""
        if self._kept_chars is not None:
            for key in list(self._large):
                self._forget(key)
                self._let_go.add(key)

    def keep_only(self, cell_id: CellId) -> None:
        """No other cell's answers will be asked for."""
        for key in [key for key in (*self._found, *self._let_go) if key.cell_id != cell_id]:
            self._forget(key)

    def _has_room(self, chars: int) -> bool:
        return self._kept_chars is None or sum(self._large.values()) + chars <= self._kept_chars

    def _forget(self, key: HostCallKey) -> None:
        self._found.pop(key, None)
        self._large.pop(key, None)
        self._let_go.discard(key)


def _chars_of(items: Iterable[HostCallItem]) -> int:
    return sum(_chars_of_value(item.value) for item in items)


def _chars_of_value(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(str(value))
