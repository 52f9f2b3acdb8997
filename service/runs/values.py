"""What callers hand to `runs` and get back from it."""

from dataclasses import dataclass, field
from typing import Any

from service.ids import RunId, SessionId
from service.loop.values import AnswerSource, BlobRef, ContextBinding, Limits, StopReason, Tool
from service.money import NanoUSD


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as a list or a person wants to see it; folded from its journal."""

    run_id: RunId
    session_id: SessionId
    parent_run_id: RunId | None
    depth: int
    question: str
    root_model: str
    sub_model: str
    submitted_at: float
    finished_at: float | None
    turns: int
    cells: int
    sub_calls: int
    child_runs: int
    spent: NanoUSD
    cost_limit: NanoUSD | None
    stop_reason: StopReason | None
    """None while it runs."""
    answer_source: AnswerSource | None
    answer: BlobRef | None
    message: str
