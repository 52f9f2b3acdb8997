"""`POST /v1/runs:estimate`: what a run may cost."""

from pydantic import Field

from service.money import NanoUSD
from service.runs.estimates.estimating import estimate
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RunsOfCaller
from service.web.doors import open_router
from service.web.openapi.refusals import refused_with
from service.web.runs.shapes import RunSubmission
from service.web.shapes import Money, Shown, example, money

router = open_router(Scope.RUNS, tag="runs")


class PastRuns(Shown):
    """What runs like it have cost, of your newest 200."""

    runs: int = Field(description="Finished runs on the same models.")
    p50: Money | None = Field(description="Null when there are too few to say anything.")
    p95: Money | None


class ShownEstimate(Shown):
    """A run's cost before it is run."""

    model_config = example(
        {
            "at_most": {"usd": "0.50", "nano_usd": 500_000_000},
            "first_call": {"usd": "0.0021", "nano_usd": 2_100_000},
            "past_runs": {
                "runs": 31,
                "p50": {"usd": "0.0123", "nano_usd": 12_300_000},
                "p95": {"usd": "0.0871", "nano_usd": 87_100_000},
            },
        }
    )

    at_most: Money | None = Field(description="What it can never pass, by its limits; null when they limit no money.")
    first_call: Money = Field(description="What its budget must cover for it to begin. It may cost less.")
    past_runs: PastRuns


@router.post("/v1/runs:estimate", summary="Estimate what a run may cost", responses=refused_with(404))
async def estimate_run(submission: RunSubmission, caller: CallerOfRequest, runs: RunsOfCaller) -> ShownEstimate:
    """The same body as for a submission. Nothing is submitted and nothing is spent."""
    found = await estimate(runs.rooms, submission.request(caller))
    return ShownEstimate(
        at_most=_money(found.at_most),
        first_call=money(found.first_call),
        past_runs=PastRuns(runs=found.history.runs, p50=_money(found.history.p50), p95=_money(found.history.p95)),
    )


def _money(amount: NanoUSD | None) -> Money | None:
    return None if amount is None else money(amount)
