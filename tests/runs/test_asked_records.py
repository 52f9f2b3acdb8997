"""What a response that continues others is told of them."""

import pytest

from service.errors import BadRequest
from service.runs.answering.deciding import Decision
from service.runs.answering.records import LARGEST_HISTORY_BYTES, AskedRecord, GrowingHistory


def record() -> AskedRecord:
    return AskedRecord(
        model="m",
        parts=("Why?",),
        earlier=(),
        context_ids=(),
        instructions=None,
        decision=Decision(way="direct", tokens_bound=10, threshold=100),
        asked_at=0.0,
    )


def test_a_history_that_is_too_large_is_refused_at_the_answer_that_makes_it_so() -> None:
    """Before the next one is read: no chain of long answers is held as a whole."""
    growing, half = GrowingHistory(), "x" * (LARGEST_HISTORY_BYTES // 2)
    growing.add(record(), half)
    with pytest.raises(BadRequest, match="begin a new response"):
        growing.add(record(), half)
    assert [message.role for message in growing.so_far().said] == ["user", "assistant"]
