"""Values that events and commands carry: plain, frozen, comparable."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from service.ids import CellId, ContextId, RunId, SandboxId
from service.money import NanoUSD


class StopReason(StrEnum):
    """Why a run ended. Every run ends with exactly one."""

    ANSWERED = "answered"
    CELL_DONE = "cell_done"
    """A direct cell has run; how it went stands in its result."""
    TURN_LIMIT = "turn_limit"
    BUDGET = "budget"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 -- tokens of a language model
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    NO_PROGRESS = "no_progress"
    """The root LM replied several times in a row with neither code nor a final."""
    ANSWER_TOO_LARGE = "answer_too_large"
    SANDBOX_LOST = "sandbox_lost"
    DIVERGED = "diverged"
    """Cells that were run again did not end as they had, and the run was not to go on then."""
    MODEL_FAILED = "model_failed"
    SUSPENDED = "suspended"
    """Its tenant may not spend any more."""
    STORE_FAILED = "store_failed"
    INTERNAL_ERROR = "internal_error"
    """A defect of this service."""


DivergencePolicy = Literal["tell", "stop"]
"""What follows when a cell that is run again does not end as it had: the root LM is told what is lost and goes on, or
the run is stopped."""


class AnswerSource(StrEnum):
    """How the answer came to be."""

    SUBMITTED = "submitted"
    """The model declared it final."""
    EXTRACTED = "extracted"
    """Asked for in a wrap-up call, when a limit was near."""
    PARTIAL = "partial"
    """The best unfinished content of `answer` there was; possibly empty."""


class Purpose(StrEnum):
    """What a model call is for."""

    TURN = "turn"
    WRAP_UP = "wrap_up"
    COMPACTION = "compaction"
    SUB_CALL = "sub_call"
    DIRECT = "direct"
    """The one call of a run that has no loop."""


class CallOutcome(StrEnum):
    """How one attempt at a model call ended. Closed: provider errors are classified into it."""

    OK = "ok"
    TIMED_OUT = "timed_out"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    """The provider rejected the request itself (bad key, content policy, unknown model)."""
    TOO_LONG = "too_long"
    """The prompt does not fit the model's window."""
    INVALID_REPLY = "invalid_reply"
    """The reply broke the protocol, or did not satisfy the requested JSON schema."""
    BUDGET = "budget"
    """No reservation could be made, so no call was made."""
    SUSPENDED = "suspended"
    """The run's tenant may not spend, so no call was made."""
    CALL_LIMIT = "call_limit"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 -- tokens of a language model
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call as they are billed. `input_tokens` includes the cached ones."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """Includes reasoning tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxUse:
    """What one sandbox used while a run had it, measured from outside; None where it ended before it was measured."""

    sandbox_id: SandboxId
    cpu_s: float | None
    """CPU seconds of everything in it, of its start too where it was started for the run."""
    memory_peak_bytes: int | None
    """The most since the sandbox started, which in a session may be an earlier run's."""
    held_s: float
    """Seconds for which the run had it, paused or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """A payload kept in the blob store under its SHA-256 (hex)."""

    sha256: str
    size_bytes: int
    media: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextShown:
    """All the root LM is told of a context: constant size, whatever the context's size."""

    variable: str
    type_name: str
    length: int
    unit: Literal["characters", "items", "keys"]
    preview: str
    """At most `PREVIEW_CHARS` characters from the beginning."""


PREVIEW_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBinding:
    """Which stored context a run is about, and under which extra name its code finds it."""

    context_id: ContextId
    variable: str | None = None
    """A name besides `context_N`; None for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A custom tool: Python source executed once, or a JSON value bound to `name`."""

    name: str
    code: str | None = None
    value_json: str | None = None
    scope: Literal["root", "sub", "both"] = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The effective limits of one run. Units are in the names; `None` means no limit of that kind."""

    turns: int = 30
    depth: int = 1
    """How many levels of child runs may stand below the root run; beyond, `rlm_query` is `llm_query`."""
    cost: NanoUSD | None = None
    tokens: int | None = None
    sub_calls: int | None = None
    wall_s: float = 1800.0
    cell_active_s: float = 120.0
    observation_chars: int = 20_000
    answer_bytes: int = 1 << 30
    empty_replies: int = 3
    """This many replies in a row with neither code nor final end the run."""
    first_turn_final_is_questioned: bool = True
    """Whether a final on turn 1, before any cell ran, gets one corrective observation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapUp:
    """What the money reserved at submit pays for: one last call, so bounded in both directions."""

    input_bytes: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """The system message as rendered from a prompt pack, and what it was rendered from."""

    system: str
    pack: str
    """Name and version, such as `default@1`."""
    sha256: str
    """Of `system` in UTF-8, hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class CellStatus(StrEnum):
    OK = "ok"
    RAISED = "raised"
    TIMED_OUT = "timed_out"
    KILLED = "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedText:
    """One output stream of a cell: its beginning, its end, and how long it truly was."""

    head: str = ""
    tail: str = ""
    """Empty when `head` holds everything."""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The exception a cell ended with. `traceback` shows the cell's own frames only, bounded."""

    type_name: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShown:
    """The state of `answer` after a cell: never its content, which is read apart as a stream."""

    ready: bool
    type_name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What one cell did, as the sandbox reported it (hostile, schema-checked)."""

    cell_id: CellId
    status: CellStatus
    stdout: CapturedText = field(default_factory=CapturedText)
    stderr: CapturedText = field(default_factory=CapturedText)
    raised: Raised | None = None
    variables: tuple[str, ...] = ()
    """Names that the cell bound or rebound, bounded and sorted."""
    answer: AnswerShown | None = None
    """None while `answer` is untouched."""
    namespace_lost: bool = False
    """The kernel died or was killed; its variables are gone until the namespace is rebuilt."""
    detail: str = ""
    """Why it timed out or was killed, one line, for the model."""
    active_s: float = 0.0
    wall_s: float = 0.0
    """Like `active_s` as the sandbox says, and never more than it took by the host's own clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallKey:
    """Which host call of which cell: the key under which its result is recorded and replayed."""

    cell_id: CellId
    function: str
    arguments_sha256: str
    ordinal: int
    """Counts equal calls (same cell, function and arguments) from 0."""
    item: int = 0
    """Index within a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedFrom:
    """Where a fork has its beginning from."""

    run_id: RunId
    from_turn: int
    """The first turn that is the fork's own; those before it are inherited."""
    events: int
    """How many of the fork's events, right behind its first, tell of the inherited turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildShown:
    """A child run as its parent's journal records it."""

    run_id: RunId
    stop_reason: StopReason
    spent: NanoUSD
    tokens: int
    sub_calls: int
    output_tokens: int = 0
    """Those of `tokens` that were written; 0 in journals from before it was recorded."""
