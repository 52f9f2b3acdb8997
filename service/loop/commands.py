"""Commands: what the loop wants done next, in the imperative. `runs` performs them.

At most one command is outstanding; each is answered by exactly one event (named below), unless a deadline,
a cancel or a lost sandbox comes first.
"""

from dataclasses import dataclass

from service.ids import CellId
from service.loop.values import AnswerSource, BlobRef, Message, Purpose, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRoot:
    """Call the root LM. Answered by `CallFinished(purpose, outcome=ok)` or `RootUnavailable(purpose)`."""

    purpose: Purpose
    turn: int
    messages: tuple[Message, ...]
    max_output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCell:
    """Execute a code block. Answered by `CellFinished`."""

    cell_id: CellId
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BindHistory:
    """Put the offloaded part of the root's conversation into the REPL as `history`.

    Performed as a cell of the loop's own making, so it is answered by `CellFinished`.
    """

    cell_id: CellId
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadVariable:
    """Read a whole value out of the REPL into a blob. Answered by `ValueRead`.

    `variable` is a variable's name, or `ANSWER` for the content of `answer` as the last cell left it.
    """

    variable: str
    size_limit_bytes: int


ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildNamespace:
    """Re-run the session's earlier cells in the fresh kernel. Answered by `NamespaceRebuilt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End the run. Answered by `RunFinished`. Exactly one of `answer` and `answer_text` may be set."""

    stop_reason: StopReason
    answer_source: AnswerSource
    answer: BlobRef | None = None
    answer_text: str | None = None
    message: str = ""


Command = AskRoot | RunCell | BindHistory | ReadVariable | RebuildNamespace | Finish
