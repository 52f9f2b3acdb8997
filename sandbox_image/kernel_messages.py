"""What the supervisor asks a kernel and what a kernel answers, as JSON bodies of frames on the `cells` socket.

    header `do`    `begin`, once and before all else, with `KernelTerms`        (supervisor → kernel)
                   `cell` · `bind` · `variables` · `value`
                   `interrupt`, without an answer: the cell of this number is to stop, if its SIGINT came too early
    header `did`   the same word, or `failed` with an `ErrorReply`; `ready` once, when it stands by;
                   `chunk`, whose body is the next piece of the value that was answered

On the `calls` socket: `{"do": "call", …}` from the kernel, `{"did": "call", …}` back. What a kernel says is hostile.
"""

from dataclasses import dataclass
from typing import Literal

from .protocol import (
    MAX_NAME_CHARS,
    MAX_TRACEBACK_CHARS,
    MAX_VARIABLES_REPORTED,
    AnswerReply,
    RaisedReply,
    Variable,
)

MAX_KERNEL_BODY_BYTES = 4 << 20
MAX_VARIABLES_LISTED = 5_000
MAX_MESSAGE_CHARS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReady:
    confinement: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome:
    """What the kernel knows of a cell that ended by itself."""

    status: Literal["ok", "raised"]
    raised: RaisedReply | None
    variables: list[str]
    answer: AnswerReply | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueOutcome:
    """Frames `chunk` follow, until `size_bytes` have been sent."""

    type_name: str
    size_bytes: int
    sha256: str


def bound_outcome(outcome: CellOutcome) -> CellOutcome:
    """The same with every text and list cut to what is reported: a kernel may have sent anything."""
    return CellOutcome(
        status=outcome.status,
        raised=outcome.raised and bound_raised(outcome.raised),
        variables=[name[:MAX_NAME_CHARS] for name in outcome.variables[:MAX_VARIABLES_REPORTED]],
        answer=outcome.answer and bound_answer(outcome.answer),
    )


def bound_raised(raised: RaisedReply) -> RaisedReply:
    return RaisedReply(
        type_name=raised.type_name[:MAX_NAME_CHARS],
        message=raised.message[:MAX_MESSAGE_CHARS],
        traceback=raised.traceback[:MAX_TRACEBACK_CHARS],
    )


def bound_answer(answer: AnswerReply) -> AnswerReply:
    return AnswerReply(
        ready=answer.ready,
        type_name=answer.type_name[:MAX_NAME_CHARS],
        size_bytes=max(0, answer.size_bytes),
        sha256=answer.sha256[:64],
    )


def bound_variables(variables: list[Variable]) -> list[Variable]:
    return [
        Variable(name=v.name[:MAX_NAME_CHARS], type_name=v.type_name[:MAX_NAME_CHARS], size=v.size)
        for v in variables[:MAX_VARIABLES_LISTED]
    ]
