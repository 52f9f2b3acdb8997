"""`/v1/runs/{run_id}/fork` and `…/replay`: a run once more, from one of its turns on or to see if it is the same."""

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import Field, StringConstraints

from service.ids import RunId, new_id
from service.journal.values import RunIdTaken
from service.runs.forks.forking import fork
from service.runs.forks.values import ForkRequest, Overrides
from service.runs.replay.comparing import ReplayReport
from service.runs.replay.replaying import replay
from service.runs.runs import Runs
from service.tenants.values import Caller, Scope
from service.web.callers import CallerOfRequest, RunsOfCaller
from service.web.doors import open_router
from service.web.idempotency import REPLAYED, IdempotencyKey, once
from service.web.openapi.refusals import refused_with
from service.web.paths import RunIdInPath
from service.web.runs.shapes import MAX_TURN, GivenRunLimits, ModelName, ShownRun, limits_of
from service.web.runs.showing import show_run
from service.web.shapes import Shape, Shown, example

router = open_router(Scope.RUNS, tag="runs")

LONGEST_REPLAY_S = 600.0


class GivenOverrides(Shape):
    """What the fork has otherwise than its source. What is left out stays as it was, each limit by itself."""

    root_model: ModelName | None = None
    sub_model: ModelName | None = None
    prompt_pack: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    limits: GivenRunLimits | None = None

    def overrides(self) -> Overrides:
        """Raises `BadRequest`: an amount cannot be one."""
        changed: dict[str, float | None] = {}
        if self.limits is not None:
            limits = limits_of(self.limits)
            for given in self.limits.model_fields_set:
                name = "cost" if given == "cost_usd" else given
                changed[name] = getattr(limits, name)
        return Overrides(
            root_model=self.root_model, sub_model=self.sub_model, prompt_pack=self.prompt_pack, limits=changed
        )


class Fork(Shape):
    """A new run that begins with the first turns of another one."""

    model_config = example({"from_turn": 2, "overrides": {"root_model": "openai/gpt-5-mini"}})

    from_turn: int = Field(ge=1, le=MAX_TURN, description="The first turn that is the fork's own.")
    overrides: GivenOverrides = Field(default_factory=GivenOverrides)

    def request(self, caller: Caller) -> ForkRequest:
        """What `runs` is asked for, on the account of this caller. Raises `BadRequest`: an amount cannot be one."""
        return ForkRequest(
            from_turn=self.from_turn,
            overrides=self.overrides.overrides(),
            key_id=caller.key.id,
            key_ancestors=caller.key.ancestors,
        )


class ShownDifference(Shown):
    """The first thing that came out otherwise; both sides are cut to the part around it."""

    seq: int = Field(description="Of the event that says how it was.")
    what: str
    expected: str
    found: str


class ShownReplay(Shown):
    """How a replay went."""

    model_config = example(
        {
            "run_id": "run_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
            "is_same": True,
            "events": 17,
            "all_events": 17,
            "cells": 3,
            "left_out": [],
            "difference": None,
        }
    )

    run_id: str
    is_same: bool = Field(description="Whether the whole run came out the same.")
    events: int = Field(description="How many were compared.")
    all_events: int
    cells: int = Field(description="How many were run again.")
    left_out: list[str] = Field(description="Cells that were cut short then, which nothing repeats.")
    difference: ShownDifference | None


@router.post("/v1/runs/{run_id}/fork", status_code=202, summary="Fork a run", responses=refused_with(402, 409))
async def fork_run(
    *,
    run_id: RunIdInPath,
    asked: Fork,
    request: Request,
    response: Response,
    caller: CallerOfRequest,
    runs: RunsOfCaller,
    idempotency_key: IdempotencyKey = None,
) -> ShownRun:
    """The turns before `from_turn` are inherited: they stand in the fork's journal, their code is run again with the
    recorded replies, and they cost nothing. From that turn on it is a run like any other."""
    source = await runs.show(run_id)
    for model in (asked.overrides.root_model or source.root_model, asked.overrides.sub_model or source.sub_model):
        caller.require_model(model)
    wanted = asked.request(caller)
    done = await once(
        runs.rooms.requests,
        request,
        caller,
        idempotency_key,
        new_target=lambda: new_id("run"),
        act=lambda target: _fork(runs, run_id, wanted, RunId(target)),
    )
    response.headers["location"] = f"/v1/runs/{done.target}"
    if done.was_done_before:
        response.headers[REPLAYED] = "true"
    return await show_run(runs, RunId(done.target))


@router.post("/v1/runs/{run_id}/replay", summary="Replay a run", responses=refused_with(409))
async def replay_run(
    run_id: RunIdInPath,
    runs: RunsOfCaller,
    timeout_s: Annotated[
        float, Query(ge=1, le=LONGEST_REPLAY_S, allow_inf_nan=False, description="Stop comparing after this long.")
    ] = 60,
) -> ShownReplay:
    """Run a finished run's code again in a sandbox of its own, with the recorded replies, and compare. No model is
    asked and nothing is paid; the run stays as it is."""
    return _shown(await replay(runs, run_id, patience_s=timeout_s))


async def _fork(runs: Runs, source_id: RunId, wanted: ForkRequest, run_id: RunId) -> None:
    try:
        await fork(runs, source_id, wanted, run_id)
    except RunIdTaken:
        # An earlier try got this far and could not say so. The id was made for this very request.
        return
    runs.start(run_id)


def _shown(report: ReplayReport) -> ShownReplay:
    found = report.difference
    return ShownReplay(
        run_id=report.run_id,
        is_same=report.is_same,
        events=report.events,
        all_events=report.all_events,
        cells=report.cells,
        left_out=list(report.left_out),
        difference=None
        if found is None
        else ShownDifference(seq=found.seq, what=found.what, expected=found.expected, found=found.found),
    )
