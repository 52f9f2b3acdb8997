"""What a direct call takes, gives back and raises."""

from dataclasses import dataclass
from typing import Any

from service.errors import Fault, RlmServiceError
from service.ids import KeyId, RunId
from service.loop.values import Message, Usage
from service.money import NanoUSD

MAX_MESSAGES = 10_000
LONGEST_S = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectRequest:
    """One completion as its caller wants it."""

    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int | None = None
    """None for as many as the model may."""
    schema: dict[str, Any] | None = None
    """The reply must be JSON that satisfies it. One that does not is sent back once, to be mended."""
    cost_limit: NanoUSD | None = None
    """Of this call, all its attempts together."""
    deadline_s: float = 600.0
    key_id: KeyId | None = None
    profile: str | None = None
    """The API profile that was asked for, where one was."""
    key_ancestors: tuple[KeyId, ...] = ()
    """The keys that it descends from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectAnswer:
    """The completion, and what it came to."""

    run_id: RunId
    model: str
    """That answered: the one that was asked for, or its fallback."""
    text: str
    finish_reason: str
    usage: Usage
    """Of the reply, and of the one that it mends."""
    spent: NanoUSD
    """Of all attempts."""


class DirectCallFailed(RlmServiceError):
    """The model gave no answer, after whatever retries there were; `data` has the run and how the last one ended."""

    code = "model_failed"
    fault = Fault.PROVIDER
