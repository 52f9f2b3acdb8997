"""Comparing: what happened with what happens again. Times, costs and tracebacks may differ; everything else may not.
Pure.
"""

import hashlib
from dataclasses import dataclass

from service.ids import CellId, RunId
from service.loop.commands import AskRoot, BindHistory, Command, Finish, ReadVariable, RebuildNamespace, RunCell
from service.loop.events import RunFinished
from service.loop.values import AnswerShown, AnswerSource, BlobRef, CapturedText, CellResult, Raised, StopReason

SHOWN_CHARS = 2_000
"""Of either side of a difference."""

ENDS_FROM_OUTSIDE = frozenset(
    {StopReason.CANCELLED, StopReason.STORE_FAILED, StopReason.SANDBOX_LOST, StopReason.INTERNAL_ERROR}
)
"""Of runs that may be ended by whoever drives them, and not by the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing that came out otherwise."""

    seq: int
    """Of the event that says how it was."""
    what: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """How a replay went."""

    run_id: RunId
    events: int
    """Compared, of those that there are."""
    all_events: int
    cells: int
    """Run again."""
    left_out: tuple[CellId, ...]
    """Cells that were cut short or killed: no repetition is cut at the same point. What builds on them may differ."""
    difference: Difference | None
    """None where everything that was compared is the same."""

    @property
    def is_same(self) -> bool:
        """Whether the whole run came out the same."""
        return self.difference is None and self.events == self.all_events


def difference_of_cells(seq: int, expected: CellResult, found: CellResult) -> Difference | None:
    """The first field in which a cell ended otherwise."""
    fields = (
        ("status", expected.status.value, found.status.value),
        ("stdout", _text(expected.stdout), _text(found.stdout)),
        ("stderr", _text(expected.stderr), _text(found.stderr)),
        ("exception", _exception(expected.raised), _exception(found.raised)),
        ("variables", " ".join(expected.variables), " ".join(found.variables)),
        ("answer", _answer(expected.answer), _answer(found.answer)),
    )
    for what, before, now in fields:
        if before != now:
            return difference(seq, f"{what} of cell {expected.cell_id}", before, now)
    return None


def difference_of_ends(
    seq: int, due: Command | None, finished: RunFinished, *, partial: BlobRef | None
) -> Difference | None:
    """Whether the loop ends the run as it ended; where it was ended from outside, whether the answer is the `partial`
    one that it had saved by then."""
    if not isinstance(due, Finish):
        if finished.stop_reason not in ENDS_FROM_OUTSIDE:
            return difference(seq, "end", f"finished: {finished.stop_reason}", f"due is {named(due)}")
        expected = f"{finished.answer_source}, {_blob(finished.answer)}"
        found = f"{AnswerSource.PARTIAL}, {_blob(partial)}"
        return None if expected == found else difference(seq, "end", expected, found)
    expected = f"{finished.stop_reason}, {finished.answer_source}, {_blob(finished.answer)}"
    found = f"{due.stop_reason}, {due.answer_source}, {_due_answer(due)}"
    return None if expected == found else difference(seq, "end", expected, found)


def difference(seq: int, what: str, expected: str, found: str) -> Difference:
    """With both sides cut to what people read: from a little before the point where they part."""
    parted = next((at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), 0)
    begin = max(0, parted - SHOWN_CHARS // 4)
    cut = slice(begin, begin + SHOWN_CHARS)
    return Difference(seq=seq, what=what, expected=expected[cut], found=found[cut])


def named(due: Command | None) -> str:
    """A command in a few words."""
    match due:
        case AskRoot():
            return f"the root LM's reply to {due.purpose} {due.turn}"
        case RunCell() | BindHistory():
            return f"cell {due.cell_id}"
        case ReadVariable():
            return f"the value of {due.variable}"
        case RebuildNamespace():
            return "a rebuild of the namespace"
        case Finish():
            return f"the end: {due.stop_reason}"
        case None:
            return "nothing"


def _text(captured: CapturedText) -> str:
    return f"{captured.head}{captured.tail}" + (f" ({captured.size_bytes} bytes)" if captured.tail else "")


def _exception(raised: Raised | None) -> str:
    return "none" if raised is None else f"{raised.type_name}: {raised.message}"


def _answer(shown: AnswerShown | None) -> str:
    if shown is None:
        return "untouched"
    return f"{'ready' if shown.ready else 'not ready'}, {shown.type_name}, {shown.size_bytes} bytes, {shown.sha256}"


def _blob(ref: BlobRef | None) -> str:
    return "no answer" if ref is None else ref.sha256


def _due_answer(due: Finish) -> str:
    if due.answer_text is not None:
        return hashlib.sha256(due.answer_text.encode("utf-8", "backslashreplace")).hexdigest()
    return _blob(due.answer)
