"""The answer of a direct call, from its journal: it stands nowhere else."""

from collections.abc import Sequence

from service.journal.values import Recorded
from service.loop.events import CallFinished, RunSubmitted
from service.loop.values import CallOutcome
from service.runs.submission.schemas import unfenced


def direct_answer(recorded: Sequence[Recorded]) -> str:
    """Of a call that was answered: the last good reply, because an earlier one was sent back to be mended."""
    events = [entry.event for entry in recorded]
    replies = [event.text for event in events if isinstance(event, CallFinished) and event.outcome is CallOutcome.OK]
    submitted = events[0] if events else None
    is_json = isinstance(submitted, RunSubmitted) and submitted.answer_schema is not None
    text = replies[-1] if replies else ""
    return unfenced(text) if is_json else text
