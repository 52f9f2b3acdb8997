"""The answers of host calls that may be asked for once more: by a sandbox that lost its connection, and by a re-run.

All of them stand in the journal. Small ones are kept here too, and large ones as long as there is room: a cell may be
answered without end, and its answers must not fill our memory. Of those that are not, it is kept where they stand.
"""

from collections.abc import Iterable
from typing import Any

from service.ids import CellId
from service.journal.values import Place
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
        self._let_go: dict[HostCallKey, Place] = {}
        """Recorded, and in the journal alone: where."""

    def __len__(self) -> int:
        return len(self._found) + len(self._let_go)

    def get(self, key: HostCallKey) -> list[HostCallItem] | None:
        """The answer, where it is kept here."""
        return self._found.get(key)

    def place_of(self, key: HostCallKey) -> Place | None:
        """Where its record stands, where the journal alone has the answer."""
        return self._let_go.get(key)

    def keep(self, key: HostCallKey, items: list[HostCallItem], place: Place | None) -> None:
        """A recorded answer, and where the journal has it; one that it has not is kept whatever it takes."""
        self._forget(key)
        chars = _chars_of(items)
        if place is None or chars <= LARGE_CHARS or self._has_room(chars):
            self._found[key] = items
            if chars > LARGE_CHARS:
                self._large[key] = chars
        else:
            self._let_go[key] = place

    def keep_only(self, cell_id: CellId) -> None:
        """No other cell's answers will be asked for."""
        for key in [key for key in (*self._found, *self._let_go) if key.cell_id != cell_id]:
            self._forget(key)

    def _has_room(self, chars: int) -> bool:
        return self._kept_chars is None or sum(self._large.values()) + chars <= self._kept_chars

    def _forget(self, key: HostCallKey) -> None:
        self._found.pop(key, None)
        self._large.pop(key, None)
        self._let_go.pop(key, None)


def _chars_of(items: Iterable[HostCallItem]) -> int:
    return sum(_chars_of_value(item.value) for item in items)


def _chars_of_value(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(str(value))
