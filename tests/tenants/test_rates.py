"""Rates against a model of them, on a clock that the test turns, and under real concurrency."""

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.ids import TenantId
from service.store.connection import open_store
from service.tenants.errors import RateLimited
from service.tenants.rates import Rate, RateReport, Rates
from service.tenants.values import CallerLimits, Level
from tests.clock import Clock
from tests.store_fixture import Stored, open_stored

pytestmark = pytest.mark.anyio

OWNERS = ["tenant", "key_a", "key_b"]


def level(owner: str, requests: int | None = None, tokens: int | None = None) -> Level:
    limits = CallerLimits(requests_per_minute=requests, tokens_per_minute=tokens)
    return Level(kind="tenant" if owner == "tenant" else "key", owner=owner, limits=limits)


class RatesMachine(RuleBasedStateMachine):
    """Buckets in exact fractions beside the real ones: both admit the same, and both say when more fits."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        stored = self.stack.enter_context(self.portal.wrap_async_context_manager(open_stored(self.directory)))
        self.clock = Clock(at=1_000_000.0)
        self.rates = Rates(stored.store, stored.tenant, self.clock)
        self.limits = {"tenant": 90, "key_a": 7, "key_b": 60}
        self.used = dict.fromkeys(OWNERS, Fraction(0))

    def teardown(self) -> None:
        self.stack.close()

    def levels(self, key: str) -> list[Level]:
        return [level("tenant", tokens=self.limits["tenant"]), level(key, tokens=self.limits[key])]

    @rule(ms=st.integers(0, 70_000))
    def wait(self, ms: int) -> None:
        before = round(self.clock.at * 1000)
        self.clock.at = (before + ms) / 1000
        for owner in OWNERS:
            self.used[owner] = max(Fraction(0), self.used[owner] - Fraction(ms * self.limits[owner], 60_000))

    @rule(key=st.sampled_from(OWNERS[1:]), tokens=st.integers(1, 100))
    def take(self, key: str, tokens: int) -> None:
        concerned = ["tenant", key]
        fits = all(self.used[owner] + tokens <= self.limits[owner] for owner in concerned)
        report = self.portal.call(lambda: self.rates.take(self.levels(key), tokens=tokens))
        assert (report.refused is None) == fits
        if fits:
            for owner in concerned:
                self.used[owner] += tokens
        else:
            self.check_wait(concerned, tokens, report)

    def check_wait(self, concerned: list[str], tokens: int, report: RateReport) -> None:
        if any(tokens > self.limits[owner] for owner in concerned):
            assert report.retry_after_s is None
            return
        assert report.retry_after_s is not None
        over = max(
            (self.used[owner] + tokens - self.limits[owner]) * 60_000 / self.limits[owner] for owner in concerned
        )
        assert 0 <= round(report.retry_after_s * 1000) - over < 1

    @rule(key=st.sampled_from(OWNERS[1:]), tokens=st.integers(-100, 100))
    def correct(self, key: str, tokens: int) -> None:
        self.portal.call(lambda: self.rates.correct(self.levels(key), tokens=tokens))
        for owner in ["tenant", key] if tokens else []:
            most = Fraction(2 * self.limits[owner])
            self.used[owner] = max(Fraction(0), min(self.used[owner] + tokens, most))

    @invariant()
    def what_is_left_is_what_the_model_says(self) -> None:
        for key in OWNERS[1:]:
            report = self.portal.call(self.rates.standing, self.levels(key))
            left = [max(0, int((self.limits[owner] - self.used[owner]) // 1)) for owner in ["tenant", key]]
            assert [bucket.remaining for bucket in report.buckets] == left


def test_any_sequence_is_admitted_as_the_model_says(store_directory: Path) -> None:
    """Whatever is taken, corrected and waited for, exactly what fits is admitted, and the wait told is exact."""
    RatesMachine.directory = store_directory
    run_state_machine_as_test(
        RatesMachine,
        settings=settings(
            max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


async def test_replicas_that_race_admit_no_more_than_the_limit(store_directory: Path, stored: Stored) -> None:
    """Of 64 requests over two connections at once, exactly as many are admitted as fit."""
    async with open_store(data_directory=store_directory, redis_url=None) as other:
        clock = Clock()
        replicas = [Rates(store, stored.tenant, clock) for store in (stored.store, other)]
        reports: list[RateReport] = []

        async def ask(rates: Rates) -> None:
            reports.append(await rates.take([level("tenant", requests=40), level("key_a", requests=25)], requests=1))

        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(ask, replicas[number % 2])
    assert sum(report.refused is None for report in reports) == 25


async def test_a_refusal_says_when_to_come_back_and_then_it_fits(stored: Stored) -> None:
    """After exactly the time that the refusal names, the request fits."""
    clock = Clock()
    rates = Rates(stored.store, stored.tenant, clock)
    levels = [level("tenant", requests=3)]
    for _ in range(3):
        (await rates.take(levels, requests=1)).require()
    report = await rates.take(levels, requests=1)
    with pytest.raises(RateLimited) as refused:
        report.require()
    assert refused.value.data["retry_after_s"] == 20
    assert report.retry_after_s is not None
    clock.at += report.retry_after_s
    (await rates.take(levels, requests=1)).require()


async def test_one_request_that_needs_more_than_a_minutes_worth_never_fits(stored: Stored) -> None:
    """What is larger than the limit is refused for good, rather than told to come back for ever."""
    report = await Rates(stored.store, stored.tenant, Clock()).take([level("tenant", tokens=10)], tokens=11)
    with pytest.raises(RateLimited) as refused:
        report.require()
    assert refused.value.data["retry_after_s"] is None


async def test_a_clock_that_is_behind_gives_nothing_back(stored: Stored) -> None:
    """A replica whose clock lags drains nothing twice."""
    ahead, behind = Clock(at=1000.0), Clock(at=900.0)
    levels = [level("tenant", requests=1)]
    assert (await Rates(stored.store, stored.tenant, ahead).take(levels, requests=1)).refused is None
    assert (await Rates(stored.store, stored.tenant, behind).take(levels, requests=1)).refused is not None
    ahead.at += 59.0
    assert (await Rates(stored.store, stored.tenant, ahead).take(levels, requests=1)).refused is not None


async def test_without_limits_the_store_is_not_asked() -> None:
    """Where nobody set a limit, rates cost nothing: here there is no store at all."""
    rates = Rates(None, TenantId("default"), Clock())  # type: ignore[arg-type]
    report = await rates.take([level("tenant")], requests=1, tokens=5)
    assert report.tightest(Rate.REQUESTS) is None


async def test_the_largest_limit_is_exact(stored: Stored) -> None:
    """At a milliard a minute not one token too many is admitted."""
    rates = Rates(stored.store, stored.tenant, Clock())
    levels = [level("tenant", tokens=10**9)]
    assert (await rates.take(levels, tokens=10**9 - 1)).refused is None
    assert (await rates.take(levels, tokens=2)).refused is not None
    assert (await rates.take(levels, tokens=1)).buckets[0].remaining == 0
