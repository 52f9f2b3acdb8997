"""`/v1/runs/{run_id}/calls`: the model calls of a run, and what each cost."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from service.journal.values import Recorded
from service.loop.events import CallFinished
from service.loop.values import CallOutcome, Purpose
from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.paths import RunIdInPath
from service.web.runs.shapes import MAX_SEQ
from service.web.shapes import Money, Shown, example, money

router = open_router(Scope.RUNS, tag="runs")

SCANNED = 5_000
"""Events that one page looks through at most; there may be few calls among them."""

_EXAMPLE: dict[str, Any] = {
    "seq": 9,
    "call_id": "run_0198c2f0a7b87cc2b1a8f2c3d4e5f607/turn/1",
    "at": 1763640004.1,
    "purpose": "turn",
    "model": "openai/gpt-5-mini",
    "outcome": "ok",
    "input_tokens": 2_410,
    "cached_input_tokens": 1_024,
    "output_tokens": 187,
    "cost": {"usd": "0.0007", "nano_usd": 700_000},
    "is_estimate": False,
    "duration_s": 3.2,
    "is_inherited": False,
    "cell_id": None,
}


class ShownCall(Shown):
    """One attempt at a model call. Its text is in the event of this `seq`."""

    seq: int
    call_id: str
    at: float
    purpose: Purpose
    model: str
    outcome: CallOutcome
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: Money
    is_estimate: bool = Field(description="The provider reported no usage: the cost is the most that it can have been.")
    duration_s: float
    is_inherited: bool = Field(description="Of a fork: its source made the call and paid for it.")
    cell_id: str | None = Field(description="The cell that asked; null for the root LM's own calls.")


class CallPage(Shown):
    """Calls in the order in which they ended. Those of child runs are in the children's."""

    model_config = example({"calls": [_EXAMPLE], "next_after": 9, "is_complete": True})

    calls: list[ShownCall]
    next_after: int = Field(description="`after` of the next page.")
    is_complete: bool = Field(description="Whether there is nothing behind these (yet).")


@router.get("/v1/runs/{run_id}/calls", summary="List a run's model calls")
async def calls(
    run_id: RunIdInPath,
    runs: RunsOfCaller,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> CallPage:
    """With tokens and cost, in the order in which they ended. Those of child runs are in the children's."""
    found: list[ShownCall] = []
    begin = after
    while page := await runs.rooms.journal.read(run_id, after):
        for entry in page:
            after = entry.seq
            if isinstance(entry.event, CallFinished):
                found.append(_shown(entry, entry.event))
            if len(found) == limit or after - begin == SCANNED:
                return CallPage(calls=found, next_after=after, is_complete=False)
    return CallPage(calls=found, next_after=after, is_complete=True)


def _shown(entry: Recorded, call: CallFinished) -> ShownCall:
    return ShownCall(
        seq=entry.seq,
        call_id=call.call_id,
        at=call.at,
        purpose=call.purpose,
        model=call.model,
        outcome=call.outcome,
        input_tokens=call.usage.input_tokens,
        cached_input_tokens=call.usage.cached_input_tokens,
        output_tokens=call.usage.output_tokens,
        cost=money(call.cost),
        is_estimate=call.estimated,
        duration_s=call.duration_s,
        is_inherited=call.is_inherited,
        cell_id=None if call.origin is None else call.origin.cell_id,
    )
