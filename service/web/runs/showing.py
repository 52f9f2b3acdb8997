"""A run as a response: its facts, and the answer where it is small."""

from service.ids import RunId
from service.loop.values import BlobRef
from service.runs.runs import Runs
from service.runs.values import RunView
from service.web.runs.shapes import ShownRun, shown_run

SHOWN_ANSWER_BYTES = 64 << 10
"""An answer up to this size stands in the run itself."""


async def show_run(runs: Runs, run_id: RunId) -> ShownRun:
    """Raises `NotFound`."""
    return await with_answer(runs, await runs.show(run_id))


async def with_answer(runs: Runs, view: RunView) -> ShownRun:
    """The run, and its answer's text where that is small enough."""
    return shown_run(view, await answer_text(runs, view.answer))


async def answer_text(runs: Runs, answer: BlobRef | None) -> str | None:
    """The text of an answer; None when there is none, or it is too large to stand in something else."""
    if answer is None or answer.size_bytes > SHOWN_ANSWER_BYTES:
        return None
    return (await runs.rooms.blobs.read(answer, SHOWN_ANSWER_BYTES)).decode("utf-8", "replace")
