"""Where a run stands: everything `decide` needs, and nothing that the events do not say.

`phase` is what the run is waiting for; each phase but the last stands for exactly one due command. All values are
frozen; `machine.evolve` and its helpers replace them.
"""

from dataclasses import dataclass, field
from typing import Literal

from service.ids import CellId
from service.loop.commands import Finish
from service.loop.events import RunSubmitted
from service.loop.observation import Spent, SubCallFailures
from service.loop.reply import Reply
from service.loop.values import BlobRef, CellResult, Message, Purpose, StopReason
from service.money import NanoUSD


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The root LM is to reply. `reason` says why the run ends after a wrap-up; None for other purposes."""

    purpose: Purpose
    reason: StopReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A cell is to run: a block of the reply, or the loop's own (`is_submission`) that submits a literal final."""

    cell_id: CellId
    code: str
    is_submission: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A value is to be read out of the REPL, and why."""

    variable: str
    why: Literal["submitted", "named", "partial", "wrap_up"]
    limit_bytes: int
    sha256: str = ""
    """Of `answer`'s content as the cell reported it, where it is `answer` that is read."""
    reason: StopReason = StopReason.ANSWERED
    fallback: str = ""
    """For a wrap-up: the text to return when the variable cannot be read."""


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """The namespace was lost and is to be built again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The offloaded conversation is to be bound to `history`."""

    cell_id: CellId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The run is to end like this."""

    finish: Finish


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing is due any more."""


Phase = Asking | Running | Reading | Rebuilding | Binding | Ending | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """Reasons to stop that arrived from outside. They never go away; the strongest decides."""

    cancelled: bool = False
    deadline_passed: bool = False
    deadline_neared: bool = False
    sandbox_lost: bool = False
    diverged: bool = False
    message: str = ""

    @property
    def any(self) -> bool:
        return self.at_once or self.deadline_neared or self.sandbox_lost

    @property
    def at_once(self) -> bool:
        """Whether there is no wrap-up: no time is left for it, or what it would be about cannot be relied on."""
        return self.cancelled or self.deadline_passed or self.diverged


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The turn that is being asked for or carried out."""

    number: int = 0
    reply: Reply | None = None
    blocks_started: int = 0
    observations: tuple[str, ...] = ()
    result: CellResult | None = None
    """Of the newest cell."""
    is_cut_short: bool = False
    """A cell did not end well, or what it submitted was not accepted: later blocks are not run."""
    is_rejected: bool = False
    """A submission of this turn was read and not accepted."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunState:
    """A run, folded from its events."""

    submitted: RunSubmitted
    phase: Phase
    now: float
    """The time of the newest event."""
    messages: tuple[Message, ...]
    """What the root LM has been told and has said; only ever appended to, except by compaction."""
    turns_from: int
    """Index in `messages` of the first message that belongs to a turn."""
    turn: Turn = field(default_factory=Turn)
    notes: tuple[str, ...] = ()
    """What the root LM is to be told with the next observation."""
    spent: Spent = field(default_factory=Spent)
    outer_left: NanoUSD | None = None
    """What whoever pays for the run had left after its last cell; None where nothing limits them."""
    stops: Stops = field(default_factory=Stops)
    failures: SubCallFailures = field(default_factory=SubCallFailures)
    """Of the newest cell's host calls."""
    context_was_touched: bool = False
    empty_replies: int = 0
    """In a row."""
    partial: BlobRef | None = None
    partial_sha256: str = ""
    """Of the content that was last saved, or tried to be, as the cell reported it."""
    rejected_sha256: str = ""
    was_too_large: bool = False
    corrections: int = 0
    """Submitted answers that could not be used."""
    unaccepted: str = ""
    """The newest text that the model would have had as the answer and that was not taken; the last resort."""
    offloaded: tuple[Message, ...] = ()
    compactions: int = 0
    compacted_before_turn: int = 0
    """The turn before which the newest compaction took place."""

    def __repr__(self) -> str:
        return (
            f"<RunState {self.submitted.run_id} turn={self.turn.number} due={self.phase} "
            f"messages={len(self.messages)} spent={self.spent.nano_usd} stops={self.stops}>"
        )
