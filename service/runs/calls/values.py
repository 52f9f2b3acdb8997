"""What the metered call takes and gives back."""

from dataclasses import dataclass
from typing import Any

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
    max_output_tokens: int
    deadline_at: float
    lineage: tuple[RunId, ...]
    schema: dict[str, Any] | None = None
    cache_key: str | None = None
    origin: HostCallKey | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFact:
    """How an attempt ended, before it is priced."""

    outcome: CallOutcome
    text: str
    reply: ModelReply | None
    may_be_billed: bool
