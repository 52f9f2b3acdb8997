"""What a run may cost, told before: bounds that hold, percentiles of real amounts, and nothing written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import Limits
from service.models.prices import Price, bound
from service.money import NanoUSD
from service.runs.estimates.estimate import LEAST_SAMPLE, history_of, most_by_limits
from service.runs.estimates.estimating import estimate
from tests.runs.playing import repl, stage

CHEAP = Price(input=100, cached_input=50, cache_write=200, output=400)
DEAR = Price(input=1_000_000_000, cached_input=1_000_000_000, cache_write=1_000_000_000, output=2_000_000_000)


@given(read=st.integers(0, 10**6), written=st.integers(0, 10**6), price=st.sampled_from([CHEAP, DEAR]))
def test_no_split_of_a_token_limit_costs_more_than_its_bound(read: int, written: int, price: Price) -> None:
    """However the tokens of the limit divide into input and output, they cost at most what the estimate says."""
    most = most_by_limits(Limits(tokens=max(1, read + written)), [CHEAP, DEAR])
    assert most is not None
    assert bound(price, read, written) <= most


def test_the_tightest_limit_bounds_and_no_limit_does_not() -> None:
    """With money and tokens limited the smaller bound holds; without either there is none."""
    assert most_by_limits(Limits(), [DEAR]) is None
    assert most_by_limits(Limits(cost=NanoUSD(7)), [DEAR]) == 7
    assert most_by_limits(Limits(cost=NanoUSD(10**9), tokens=1_000), [DEAR]) == 1_000 * 2_000
    assert most_by_limits(Limits(cost=NanoUSD(7), tokens=1_000), [DEAR]) == 7


@given(st.lists(st.integers(0, 10**12).map(NanoUSD), min_size=LEAST_SAMPLE, max_size=300))
def test_percentiles_are_amounts_that_runs_had(spent: list[NanoUSD]) -> None:
    """At least half of the runs cost at most the median, at least 95 of 100 at most the other, and both were paid."""
    history = history_of(spent)
    assert history.p50 is not None
    assert history.p95 is not None
    assert {history.p50, history.p95} <= set(spent)
    assert sum(each <= history.p50 for each in spent) * 2 >= len(spent)
    assert sum(each <= history.p95 for each in spent) * 100 >= len(spent) * 95


def test_a_few_runs_say_nothing() -> None:
    """Below the least sample only its size is told."""
    history = history_of([NanoUSD(1)] * (LEAST_SAMPLE - 1))
    assert (history.runs, history.p50, history.p95) == (LEAST_SAMPLE - 1, None, None)


@pytest.mark.anyio
async def test_an_estimate_knows_the_tenants_own_runs(tmp_path: Path) -> None:
    """After a run its cost is in the sample, the bound is the request's limit, and nothing new is listed."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        request = await on.request("x", Limits(cost=NanoUSD(50_000_000)))
        before = await estimate(on.service.runs.rooms, request)
        assert (before.at_most, before.history.runs) == (50_000_000, 0)
        assert 0 < before.first_call <= 50_000_000
        await on.play(request)
        after = await estimate(on.service.runs.rooms, request)
        assert (after.history.runs, after.history.p50) == (1, None)
        assert len(await on.service.runs.ls(10)) == 1
