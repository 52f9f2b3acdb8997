"""What the metered call takes and gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.errors import RlmServiceError
from service.ids import CallId, RunId
from service.ledger.values import Amount, Refusal
from service.loop.values import CallOutcome, HostCallKey, Message, Purpose
from service.models.catalog import Route
from service.models.port import ModelReply


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredCall:
    """One call as the run wants it, before any attempt."""

    stem: str
    """Where it stands in its run; attempt `k` has the id `{stem}/a{k}`."""
    purpose: Purpose
    route: Route
    messages: tuple[Message, ...]
    input_tokens: int
    """What `count_input_tokens` says of the messages and the schema."""
    max_output_tokens: int
    deadline_at: float
    lineage: tuple[RunId, ...]
    schema: dict[str, Any] | None = None
    cache_key: str | None = None
    origin: HostCallKey | None = None
    listener: "TextListener | None" = None


class TextListener:
    """Hears a reply's text as it comes. Once it has heard something, the call is not tried again."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        """`hear` must neither block nor raise."""
        self._hear = hear
        self._told_chars = 0

    @property
    def was_told(self) -> bool:
        return self._told_chars > 0

    def tell(self, text: str) -> None:
        if text:
            self._told_chars += len(text)
            self._hear(text)

    def tell_rest(self, whole: str) -> None:
        """What of the whole reply was not told while it came."""
        self.tell(whole[self._told_chars :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A reservation that was made: it must be resolved exactly once."""

    call_id: CallId
    amount: Amount
    max_output_tokens: int
    route: int = 0
    """The model that it is for: 0 for the one that was asked for, then the fallbacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No call was or will be made."""

    outcome: CallOutcome
    message: str
    refusal: Refusal | None = None
    """The account that could not hold it, when money or another unit was the reason."""
    error: RlmServiceError | None = None
    """The same as who asked for this one call is to be told of it, when a limit of the tenant was the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFact:
    """How an attempt ended, before it is priced."""

    outcome: CallOutcome
    text: str
    reply: ModelReply | None
    may_be_billed: bool
