"""What a host call carries, what it comes to, and how that is recorded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.errors import BadRequest
from service.loop.events import HostCallAnswered
from service.loop.values import CallOutcome

MAX_ANSWER_CHARS = 64 << 20
"""Of one host call, all its items together."""

HostFunction = Literal["llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched", "budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCall:
    """One call as the gateway decoded it. Still hostile: sizes are checked, meanings are not."""

    wire_cell_id: str
    function: HostFunction
    arguments_sha256: str
    ordinal: int
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallItem:
    """What one item comes to: a value, or why there is none."""

    value: Any = None
    failure: CallOutcome | None = None
    message: str = ""
    diverged: bool = False


NOT_STARTED = HostCallItem(failure=CallOutcome.CANCELLED, message="the run is being stopped")
CELL_ENDED = HostCallItem(failure=CallOutcome.CANCELLED, message="its cell ended before it was begun")


class AnswerRoom:
    """How much one host call may still bring back. Shared by its items, so that no sum of them fills our memory."""

    def __init__(self) -> None:
        self._left = MAX_ANSWER_CHARS

    def item(self, value: Any, size_chars: int) -> HostCallItem:
        """The value as an item, or its failure when there is no room left for it."""
        if size_chars > self._left:
            message = f"the answers of one call may have {MAX_ANSWER_CHARS} characters in all: ask for less at once"
            return HostCallItem(failure=CallOutcome.TOO_LONG, message=message)
        self._left -= size_chars
        return HostCallItem(value=value)


def encode_items(items: Sequence[HostCallItem]) -> str:
    """As they stand in a record."""
    return json.dumps(
        [[i.value] if i.failure is None else [None, i.failure.value, i.message] for i in items], ensure_ascii=False
    )


def decode_items(text: str) -> list[HostCallItem]:
    """What `encode_items` wrote."""
    return [
        HostCallItem(value=row[0]) if len(row) == 1 else HostCallItem(failure=CallOutcome(row[1]), message=row[2])
        for row in json.loads(text)
    ]


def check_recorded(event: HostCallAnswered) -> None:
    """Refuse a record from elsewhere that could not answer. Raises `BadRequest`."""
    try:
        decode_items(event.answer_json)
    except (ValueError, TypeError, LookupError, RecursionError):
        raise BadRequest("a recorded host call has an answer of another form than this version writes") from None
