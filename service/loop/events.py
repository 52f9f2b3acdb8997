"""Events: what happened to a run, in the past tense, each with its time (`at`, Unix seconds).

A run *is* the list of these. They are the journal's entries, the feed that clients follow and the input of
`machine.evolve`. Adding a field needs a default, so that older journals still read.
"""

from dataclasses import dataclass
from typing import Any, Literal

from service.ids import CallId, CellId, KeyId, RunId, SandboxId, SessionId
from service.loop.values import (
    AnswerSource,
    BlobRef,
    CallOutcome,
    CellResult,
    ChildShown,
    ContextBinding,
    ContextShown,
    DivergencePolicy,
    ForkedFrom,
    HostCallKey,
    Limits,
    Purpose,
    RenderedPrompt,
    SandboxUse,
    StopReason,
    Tool,
    Usage,
    WrapUp,
)
from service.money import NanoUSD


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSubmitted:
    """Always the first event. Everything the loop will ever need to know about its task."""

    at: float
    run_id: RunId
    session_id: SessionId
    parent_run_id: RunId | None
    depth: int
    question: str
    contexts: tuple[ContextShown, ...]
    root_model: str
    sub_model: str
    root_window_tokens: int
    root_max_output_tokens: int
    limits: Limits
    prompt: RenderedPrompt
    wrap_up: WrapUp | None
    """None when the budget cannot hold even the smallest wrap-up call."""
    deadline_at: float
    answer_schema: dict[str, Any] | None = None
    """JSON Schema the answer must satisfy; None means text."""
    bindings: tuple[ContextBinding, ...] = ()
    """The stored contexts behind `contexts`, in the same order."""
    tools: tuple[Tool, ...] = ()
    keeps_session: bool = False
    """Whether the session outlives the run."""
    code: str | None = None
    """Of a direct cell: the one cell of a run without a root LM. None for every other run."""
    origin: HostCallKey | None = None
    """Of a child run: the host call of its parent that asked for it. None in journals from before it was recorded."""
    key_id: KeyId | None = None
    """The API key whose money pays; a child run has its parent's. None where there are no keys."""
    profile: str | None = None
    """The API profile that was asked for, where one was."""
    key_ancestors: tuple[KeyId, ...] = ()
    """The keys that this one descends from, whose money pays too: a key gains nothing by making keys."""
    is_direct: bool = False
    """One plain completion, without a loop: nobody drives it but the one who asked, and its reply is its answer."""
    forked_from: ForkedFrom | None = None
    """Of a fork: whose first turns it begins with."""
    imported_from: RunId | None = None
    """Of a run that was imported: what it was called where it ran."""
    on_divergence: DivergencePolicy = "tell"

    @property
    def key_line(self) -> tuple[KeyId, ...]:
        """Every key that it counts for, nearest first."""
        return () if self.key_id is None else (self.key_id, *self.key_ancestors)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxAcquired:
    """The run has a sandbox (a session's next run: the same one, with its variables)."""

    at: float
    sandbox_id: SandboxId
    generation: int
    isolation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """One attempt at a model call is over, and this is what it costs.

    For the root's purposes with outcome `ok` this is the reply. For sub-calls it is the record that a
    replay answers from. It is appended before the ledger settles, so a crash between the two settles later.
    """

    at: float
    call_id: CallId
    purpose: Purpose
    model: str
    outcome: CallOutcome
    text: str
    """The reply, or for a failed call one clean line about what went wrong."""
    usage: Usage
    cost: NanoUSD
    origin: HostCallKey | None = None
    """The host call it answers; None for the root's own calls."""
    estimated: bool = False
    """The provider reported no usage, or the attempt broke off: `cost` is the reservation's bound."""
    duration_s: float = 0.0
    finish_reason: str = "stop"
    """Why the model stopped, in the words of OpenAI's protocol."""
    is_inherited: bool = False
    """The run that this one was forked from made it and paid for it; here it costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootUnavailable:
    """A root call could not be had, after whatever retries there were."""

    at: float
    purpose: Purpose
    outcome: CallOutcome
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCallAnswered:
    """The record of a whole host call: what code in the cell got back, so that a replay gets the same.

    `answer_json` is the gateway's reply (JSON text). For batches it repeats no money: costs stand in the
    `CallFinished` events of the items.
    """

    at: float
    key: HostCallKey
    answer_json: str
    failures: tuple[str, ...] = ()
    """The outcome of each failed item."""
    items: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRunFinished:
    """A child run that this run's code asked for has ended."""

    at: float
    key: HostCallKey
    child: ChildShown


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFinished:
    """The cell that was running has a result."""

    at: float
    result: CellResult
    outer_left: NanoUSD | None = None
    """What the run's session, API key or tenant had left then, whichever had least; None when none is limited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueRead:
    """The value that `ReadVariable` asked for, kept as a blob; or why there is none."""

    at: float
    variable: str
    outcome: Literal["read", "missing", "too_large", "failed"]
    blob: BlobRef | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRebuilt:
    """A lost namespace was built again by re-running the earlier cells with recorded host calls."""

    at: float
    cells: int
    missing: tuple[str, ...] = ()
    """Variables that could not be brought back, because a re-run cell diverged or died."""
    diverged: tuple[CellId, ...] = ()
    """Cells that did not end as they had: another output or `answer`, another host call, or the kernel's death."""
    missing_files: tuple[str, ...] = ()
    """Paths of files that callers had put there and that could not be put back."""

    @property
    def lost_something(self) -> bool:
        """Whether anything is not as it was."""
        return bool(self.missing or self.diverged or self.missing_files)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTakenOver:
    """The run goes on under a new epoch, after whoever drove it has died, lost it or handed it over."""

    at: float
    epoch: int
    uncertain_calls: int = 0
    """Model calls that were in flight, of the run and those below it: charged in full, and perhaps made once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLost:
    """The sandbox is gone and could not be replaced."""

    at: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineNeared:
    """Only the time reserved for wrapping up is left."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """Always the last event."""

    at: float
    stop_reason: StopReason
    answer_source: AnswerSource
    answer: BlobRef | None
    spent: NanoUSD
    message: str = ""
    """One line for people when the stop reason alone does not say enough."""
    sandboxes: tuple[SandboxUse, ...] = ()
    """Those that the run had on the replica that finished it, in order. Empty where its driver broke off."""


Event = (
    RunSubmitted
    | SandboxAcquired
    | CallFinished
    | RootUnavailable
    | HostCallAnswered
    | ChildRunFinished
    | CellFinished
    | ValueRead
    | NamespaceRebuilt
    | RunTakenOver
    | SandboxLost
    | DeadlineNeared
    | DeadlinePassed
    | CancelRequested
    | RunFinished
)
