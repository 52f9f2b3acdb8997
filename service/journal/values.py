"""What the journal carries besides events, and what it raises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from service.errors import Fault, NotFound, RlmServiceError
from service.ids import CellId, RunId, SessionId
from service.loop.events import Event
from service.loop.values import CellStatus
from service.money import NanoUSD


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event where it stands: `seq` counts from 1 without gaps within a run."""

    seq: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an event stands among those of all runs of a tenant."""

    run_id: RunId
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A root run that the caller drives from now on."""

    epoch: int
    was_driven: bool
    """Whether it may have calls in flight that nobody waits for any more: it was claimed before, be it by this very
    claim, whose first reply was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """One thing that shaped a session's namespace, in the order in which it did."""

    cell_id: CellId
    run_id: RunId | None
    """The run that did it; None for what the session's caller did between runs."""
    kind: Literal["cell", "bind", "history", "variable", "file", "restart"]
    """`cell`: code that ran. `bind`: contexts and tools bound for a run. `history`: offloaded conversation bound.
    `variable`: a value that was written. `file`: one that was put into the working directory, or deleted there.
    `restart`: the namespace was emptied; files stay."""
    code: str
    """The code of a cell; what was bound, written or put, as JSON, for the other kinds."""
    status: CellStatus = CellStatus.OK
    stdout_sha256: str | None = None
    """Of the stdout as captured. A rebuilt cell whose stdout differs has diverged."""
    answer_form: Literal["text", "json"] | None = None
    """How its `answer` was read; None in logs from before it was recorded."""
    answer_sha256: str | None = None
    """Of `answer` after the cell, in that form; None while it was untouched. A rebuilt cell that leaves another one has
    diverged."""
    variables: tuple[str, ...] = ()
    """What it bound; these are missing if it cannot be run again."""
    was_interrupted: bool = False
    """It was told to stop (a deadline, a cancellation), at a point that no re-run meets again."""
    active_s: float = 0.0
    """How long it was active; 0 in logs from before it was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDetails:
    """What a session's caller says of it, and may change."""

    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    sub_model: str | None = None
    """Of the sub-calls of its direct cells; None: they can make none."""
    budget: NanoUSD | None = None
    """For everything that is done in it."""
    is_paused: bool = False
    """It has no sandbox and takes no work until it is resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """What outlives a session's sandbox, so that another one can take its place."""

    session_id: SessionId
    created_at: float
    closed_at: float | None = None
    random_seed: int
    hash_seed: int | None = None
    """Of its first sandbox; None before there was one. A later one starts with the same, so that sets iterate alike."""
    generation: int = 0
    """Of the last sandbox that was started for it; 0 before the first."""
    epoch: int = 0
    """How often it was claimed or taken."""
    details: SessionDetails = SessionDetails()


class RunKept(RlmServiceError):
    """Another replica drives the run, and says so in time: it is not to be taken over."""

    code = "run_kept"
    fault = Fault.PLATFORM


class SessionUsed(RlmServiceError):
    """Another run uses the session; `data` names it. One at a time: wait until it has finished."""

    code = "session_used"
    fault = Fault.CALLER
    may_be_retried = True


class RunAlreadyFinished(RlmServiceError):
    """`RunFinished` is the last event of a run; nothing can follow it."""

    code = "run_already_finished"
    fault = Fault.CALLER


class RunAbsent(NotFound):
    """There is no such run, or none any more."""


class RunNotFinished(RlmServiceError):
    """This is to be had when the run has ended."""

    code = "run_not_finished"
    fault = Fault.CALLER
    may_be_retried = True


class RunIdTaken(RlmServiceError):
    """The id belongs to a run that was submitted differently."""

    code = "run_id_taken"
    fault = Fault.CALLER
