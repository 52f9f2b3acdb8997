"""Who speaks: the sub-LM's reader, or a strategy of the root LM."""

from typing import Any

from service.loop.values import Message
from service.models.scripted import reader
from service.models.scripted.script import Strategy


def play(strategy: Strategy, messages: tuple[Message, ...], schema: dict[str, Any] | None) -> str:
    """The reply to these messages; a pure function of them."""
    prompt = next((message.content for message in reversed(messages) if message.role == "user"), "")
    return reader.answer(prompt)
