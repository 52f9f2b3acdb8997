"""What callers hand to `runs` and get back from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.ids import KeyId, RunId, SessionId
from service.loop.values import (
    AnswerSource,
    BlobRef,
    ContextBinding,
    DivergencePolicy,
    ForkedFrom,
    Limits,
    SandboxUse,
    StopReason,
    Tool,
)
from service.money import MAX_NANO_USD, NanoUSD

DEFAULT_COST = NanoUSD(1_000_000_000)
"""What a run may cost where neither who asks nor the profile says."""
LIMIT_RANGES: Mapping[str, tuple[float, float]] = {
    "turns": (1, 1_000),
    "depth": (0, 16),
    "tokens": (1, MAX_NANO_USD),
    "sub_calls": (0, MAX_NANO_USD),
    "wall_s": (1, 7 * 86_400),
    "cell_active_s": (0.1, 86_400),
    "observation_chars": (200, 1_000_000),
    "answer_bytes": (1, 16 << 30),
    "empty_replies": (1, 100),
}
"""From least to most, for each of `Limits` that is a plain number. Faces check early and say it in their own words."""

NO_MODEL = "scripted/sub?fail_every=1&fail_with=refused"
"""What cells name that have no model: sub-calls are refused before they are made, and it would answer none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One question over one or more contexts."""

    question: str
    contexts: tuple[ContextBinding, ...]
    root_model: str
    sub_model: str
    limits: Limits = field(default_factory=Limits)
    session_id: SessionId | None = None
    """An existing session to run in, with its variables; None for one of its own that ends with the run."""
    answer_schema: dict[str, Any] | None = None
    tools: tuple[Tool, ...] = ()
    prompt_pack: str = "default"
    code: str | None = None
    """A direct cell: run this in the session, and ask no root LM."""
    key_id: KeyId | None = None
    """The API key that asks, whose money pays; None for the embedded default, where there are no keys."""
    profile: str | None = None
    """The API profile that this follows, where it follows one: runs are compared by it."""
    key_ancestors: tuple[KeyId, ...] = ()
    """The keys that it descends from."""
    on_divergence: DivergencePolicy | None = None
    """None: as the operator has set it."""
    keeps_contexts: bool = True
    """Contexts that came along with a conversation stay, because this run names them; False for that conversation's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as a list or a person wants to see it; folded from its journal."""

    run_id: RunId
    session_id: SessionId
    parent_run_id: RunId | None
    depth: int
    question: str
    """Of a direct cell the beginning of its code."""
    root_model: str
    sub_model: str
    submitted_at: float
    finished_at: float | None
    turns: int
    cells: int
    sub_calls: int
    refused_sub_calls: Mapping[str, int]
    """Not made, because a limit forbade them, by the limit's name. Those of child runs stand in the children's."""
    child_runs: int
    input_tokens: int
    output_tokens: int
    """Of all calls, child runs' included."""
    spent: NanoUSD
    cost_limit: NanoUSD | None
    stop_reason: StopReason | None
    """None while it runs."""
    answer_source: AnswerSource | None
    answer: BlobRef | None
    message: str
    sandboxes: tuple[SandboxUse, ...]
    """The run's own, once it has finished; those of child runs stand in the children's."""
    profile: str | None = None
    is_direct: bool = False
    forked_from: ForkedFrom | None = None
    imported_from: RunId | None = None
    take_overs: int = 0
    """How often it went on under another replica, or another process, than before."""
    uncertain_calls: int = 0
    """Calls, child runs' included, that were in flight then: charged at all that they can have cost."""
