"""Whether a conversation is answered by one direct call or by a run of the loop. Pure.

Tokens are bounded by bytes: no tokenizer makes more tokens of a text than it has bytes. Below a model's threshold a
plain call wins, because a run's turns read more than the text itself.
"""

from dataclasses import dataclass
from typing import Literal

from service.models.port import ModelCard
from service.runs.answering.profiles import Profile

LEAST_REPLY_TOKENS = 1_024
"""What must be left of a window for the reply of a direct call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How it is answered, and why."""

    way: Literal["direct", "rlm"]
    tokens_bound: int
    """What it has at most."""
    threshold: int
    """Below it, one direct call; 0 where the profile makes none, and where the client asked for one."""


def decide(profile: Profile, card: ModelCard, size_bytes: int) -> Decision:
    """Which way the root LM of this card is to answer that much under this profile."""
    threshold = 0
    if profile.direct_below_tokens:
        own = card.direct_below_tokens or profile.direct_below_tokens
        threshold = min(own, max(card.window_tokens - LEAST_REPLY_TOKENS, 0))
    return Decision(way="direct" if size_bytes < threshold else "rlm", tokens_bound=size_bytes, threshold=threshold)
