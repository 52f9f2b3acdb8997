"""The port: what a language model is to the rest of the service.

Implemented by the adapters of the two protocols that are spoken natively, by LiteLLM's, and by the scripted model; all
pass `tests/models/contract.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from service.loop.values import CallOutcome, Message, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One completion. Everything the provider will see; nothing here comes from a caller unchecked."""

    model: str
    """The provider's own name for it, without our routing prefix."""
    messages: tuple[Message, ...]
    max_output_tokens: int
    schema: dict[str, Any] | None = None
    """Ask for JSON that satisfies this schema. The *caller* of the port validates the reply."""
    cache_key: str | None = None
    """Equal for requests that share a prefix; adapters turn it into their provider's cache hint."""
    is_continued: bool = False
    """Whether a later request will begin with all of these messages: writing them to a prefix cache then pays."""
    timeout_s: float = 300.0
    """Total, from the first byte sent to the last received."""
    on_text: Callable[[str], None] | None = None
    """Told each piece of the reply's text as it comes, by adapters that see it coming (LiteLLM's does not: its process
    hands over whole replies); must not block or raise. What was told may be less than the whole, never other than its
    beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    text: str
    usage: Usage | None
    """None when the provider reported none (or nonsense); the ledger then books the bound."""
    finish_reason: str = "stop"


class ModelCallFailed(Exception):
    """One attempt failed. Data, not a member of the error tree: the metered call turns it into an event.

    `may_be_billed` is False only when the provider certainly did no work (refused connection, 4xx).
    """

    def __init__(
        self,
        outcome: CallOutcome,
        message: str,
        *,
        retry_after_s: float | None = None,
        may_be_billed: bool = True,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.retry_after_s = retry_after_s
        self.may_be_billed = may_be_billed


class ModelAdapter(Protocol):
    """Speaks to one provider. Opened by `wiring`, shared by all runs, safe under concurrency."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Make one attempt; never retries.

        Called by the metered call only, after money was reserved. Not idempotent. Cancelling it closes the
        connection; whether the provider bills then is unknown.

        Raises:
            ModelCallFailed: anything else than a complete reply; messages are clean of keys and payload.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections. Called once, when no call is in flight."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the service knows of a model before it calls it."""

    name: str
    """As users name it, such as `openai/gpt-5-mini`, `scripted/root`, `local/qwen3`."""
    window_tokens: int
    max_output_tokens: int
    may_reason: bool = False
    direct_below_tokens: int | None = None
    """What has fewer tokens it answers better in one call than by driving a run, if the operator has said so."""
