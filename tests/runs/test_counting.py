"""Counting the input of a call."""

import threading

import pytest

from service.loop.values import Message
from service.models.prices import input_token_bound
from service.runs.calls.counting import COUNTED_INLINE_CHARS, count_input_tokens


class Text(str):
    """A text that knows where it was cut into pieces to be counted."""

    counted_by: set[int]

    def __getitem__(self, key: object) -> str:
        self.counted_by.add(threading.get_ident())
        return str.__getitem__(self, key)  # type: ignore[index]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "is_aside"),
    [("é", False), ("é" * COUNTED_INLINE_CHARS, False), ("é" * (COUNTED_INLINE_CHARS + 1), True)],
)
async def test_a_long_text_is_counted_beside_the_event_loop(text: str, is_aside: bool) -> None:
    """What would take long is counted in a thread, what is short is not sent to one, and the count is the same."""
    watched = Text(text)
    watched.counted_by = set()
    messages = (Message(role="user", content=watched),)
    assert await count_input_tokens(messages) == input_token_bound((Message(role="user", content=text),))
    assert (threading.get_ident() not in watched.counted_by) == is_aside
