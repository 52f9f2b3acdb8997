"""A run as people want to see it, folded from its journal."""

from collections import Counter
from collections.abc import Sequence

from service.ids import RunId
from service.journal.values import Recorded, RunAbsent
from service.loop.events import (
    CallFinished,
    CellFinished,
    ChildRunFinished,
    HostCallAnswered,
    RunFinished,
    RunSubmitted,
    RunTakenOver,
)
from service.loop.values import CallOutcome, Purpose
from service.money import NanoUSD
from service.runs.values import RunView

QUESTION_CHARS = 200
LIMITS_THAT_REFUSE = frozenset({CallOutcome.BUDGET, CallOutcome.CALL_LIMIT, CallOutcome.TOKEN_LIMIT})


def refused_sub_calls(event: HostCallAnswered) -> Counter[str]:
    """The items that a limit forbade, by limit: no call was made for them, so no `CallFinished` tells of them."""
    return Counter(failure for failure in event.failures if failure in LIMITS_THAT_REFUSE)


def view_of(run_id: RunId, recorded: Sequence[Recorded]) -> RunView:
    """Counts and sums over the events. `spent` includes child runs."""
    events = [entry.event for entry in recorded]
    if not events or not isinstance(events[0], RunSubmitted):
        raise RunAbsent(f"there is no run {run_id}")
    submitted = events[0]
    finished = events[-1] if isinstance(events[-1], RunFinished) else None
    calls = [event for event in events if isinstance(event, CallFinished)]
    answered = [call for call in calls if call.outcome is CallOutcome.OK]
    children = [event.child for event in events if isinstance(event, ChildRunFinished)]
    take_overs = [event for event in events if isinstance(event, RunTakenOver)]
    so_far = sum(call.cost for call in calls) + sum(child.spent for child in children)
    return RunView(
        run_id=run_id,
        session_id=submitted.session_id,
        parent_run_id=submitted.parent_run_id,
        depth=submitted.depth,
        question=submitted.question if submitted.code is None else f"cell: {submitted.code[:QUESTION_CHARS]}",
        root_model=submitted.root_model,
        sub_model=submitted.sub_model,
        submitted_at=submitted.at,
        finished_at=None if finished is None else finished.at,
        turns=sum(call.purpose is Purpose.TURN for call in answered),
        cells=sum(isinstance(event, CellFinished) for event in events),
        sub_calls=sum(call.purpose is Purpose.SUB_CALL for call in answered)
        + sum(child.sub_calls for child in children),
        refused_sub_calls=dict(
            sum((refused_sub_calls(event) for event in events if isinstance(event, HostCallAnswered)), Counter())
        ),
        child_runs=len(children),
        input_tokens=sum(call.usage.input_tokens for call in calls)
        + sum(child.tokens - child.output_tokens for child in children),
        output_tokens=sum(call.usage.output_tokens for call in calls) + sum(child.output_tokens for child in children),
        spent=NanoUSD(so_far) if finished is None else finished.spent,
        cost_limit=submitted.limits.cost,
        stop_reason=None if finished is None else finished.stop_reason,
        answer_source=None if finished is None else finished.answer_source,
        answer=None if finished is None else finished.answer,
        message="" if finished is None else finished.message,
        sandboxes=() if finished is None else finished.sandboxes,
        profile=submitted.profile,
        is_direct=submitted.is_direct,
        forked_from=submitted.forked_from,
        imported_from=submitted.imported_from,
        take_overs=len(take_overs),
        uncertain_calls=sum(event.uncertain_calls for event in take_overs),
    )
