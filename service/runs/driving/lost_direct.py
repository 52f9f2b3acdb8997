"""A direct call whose replica died under it: what is journalled is settled, and the run ends. Nothing is asked again,
because whoever asked is gone; what was in flight has been journalled, and booked, as uncertain before."""

from collections.abc import Sequence

from service.ids import RunId
from service.journal.values import Recorded
from service.loop.events import CallFinished, Event, RunFinished, RunSubmitted
from service.loop.values import AnswerSource, CallOutcome, StopReason
from service.money import NanoUSD
from service.runs.rooms import RunsRooms
from service.runs.submission.schemas import ReplyBreaksSchema, check_schema_aside, parse_checked


async def end_lost_direct(rooms: RunsRooms, run_id: RunId, epoch: int, recorded: Sequence[Recorded]) -> None:
    """End the run, as the holder of an epoch. Idempotent up to its last event."""
    calls = [entry.event for entry in recorded if isinstance(entry.event, CallFinished)]
    for call in calls:
        await rooms.metered.settle(call, run_id)
    is_answered = await _is_answered(recorded[0].event, calls)
    finished = RunFinished(
        at=rooms.now(),
        stop_reason=StopReason.ANSWERED if is_answered else StopReason.MODEL_FAILED,
        answer_source=AnswerSource.SUBMITTED if is_answered else AnswerSource.PARTIAL,
        answer=None,
        spent=NanoUSD(sum(call.cost for call in calls)),
        message="" if is_answered else "the service was restarted while the call was under way",
    )
    await rooms.journal.append(run_id, epoch, finished)


async def _is_answered(submitted: Event, calls: Sequence[CallFinished]) -> bool:
    """Whether the last good reply is an answer: where there is a schema, it may be one that was to be mended."""
    good = [call for call in calls if call.outcome is CallOutcome.OK]
    if not good or not isinstance(submitted, RunSubmitted) or submitted.answer_schema is None:
        return bool(good)
    try:
        await parse_checked(good[-1].text, await check_schema_aside(submitted.answer_schema))
    except ReplyBreaksSchema:
        return False
    return True
