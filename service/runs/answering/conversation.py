"""What a chat client asks, whatever dialect it speaks."""

from dataclasses import dataclass
from typing import Any

from service.ids import ContextId, KeyId
from service.loop.values import Message
from service.money import NanoUSD

_ENCODED_AT_ONCE = 1 << 20
"""Characters: encoding holds the interpreter's lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages that end with a question, and what the answer is to be like."""

    model: str
    """A profile, or `direct/MODEL`."""
    parts: tuple[str, ...]
    """The texts of the last message of the user; the last of them asks."""
    earlier: tuple[Message, ...] = ()
    """What was said before, without instructions."""
    instructions: str = ""
    context_ids: tuple[ContextId, ...] = ()
    schema: dict[str, Any] | None = None
    """JSON Schema that the answer must satisfy; None for text."""
    max_output_tokens: int | None = None
    """Of a direct call; a run's answer may be of any length."""
    root_model: str | None = None
    """Instead of the profile's."""
    sub_model: str | None = None
    cost_limit: NanoUSD | None = None
    """Instead of the profile's."""
    key_id: KeyId
    key_ancestors: tuple[KeyId, ...] = ()
    """The keys that it descends from."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them; stored contexts are none."""
        return (self.instructions, *self.parts, *(message.content for message in self.earlier))

    @property
    def size_bytes(self) -> int:
        """Of all texts in UTF-8."""
        return sum(map(utf8_bytes, self.texts))


def utf8_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    pieces = (text[start : start + _ENCODED_AT_ONCE] for start in range(0, len(text), _ENCODED_AT_ONCE))
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces)
