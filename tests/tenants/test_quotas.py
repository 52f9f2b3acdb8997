"""Quotas and storage against models of them, on a clock that the test turns, and under real concurrency."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.store.connection import open_store
from service.tenants.errors import ConcurrencyLimited, QuotaExceeded
from service.tenants.quotas import Counted, Quotas
from service.tenants.storage import Storage
from service.tenants.values import CallerLimits, Level
from tests.clock import Clock
from tests.store_fixture import Stored, open_stored

pytestmark = pytest.mark.anyio

RUNS = Counted.PARALLEL_RUNS
MACHINE = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = ["key_a", "key_b"]
SIZES = {f"{number:064x}": 10 * (number + 1) for number in range(4)}
LEASES = st.sampled_from([f"run_{number}" for number in range(6)])


def level(kind: Literal["tenant", "key"], owner: str, most: int | None) -> Level:
    limits = CallerLimits(parallel_runs=most, open_contexts=most, storage_bytes=most)
    return Level(kind=kind, owner=owner, limits=limits)


class QuotasMachine(RuleBasedStateMachine):
    """Leases in a dictionary beside the real ones: both admit the same and count the same, on two connections."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        stored = self.stack.enter_context(self.portal.wrap_async_context_manager(open_stored(self.directory)))
        other = self.stack.enter_context(
            self.portal.wrap_async_context_manager(open_store(data_directory=self.directory, redis_url=None))
        )
        self.clock = Clock(at=1000.0)
        self.tenant = stored.tenant
        self.replicas = [Quotas(store, stored.tenant, self.clock.read) for store in (stored.store, other)]
        self.leases: dict[str, tuple[str, float]] = {}

    def teardown(self) -> None:
        self.stack.close()

    def levels(self, key: str) -> list[Level]:
        return [level("tenant", self.tenant, 4), level("key", key, 3)]

    def live(self) -> dict[str, str]:
        return {lease: key for lease, (key, lapses_at) in self.leases.items() if lapses_at > self.clock.at}

    @rule(seconds=st.integers(0, 20))
    def wait(self, seconds: int) -> None:
        self.clock.at += seconds

    @rule(lease=LEASES, key=st.sampled_from(KEYS), replica=st.integers(0, 1), lasts=st.sampled_from([10, 30, None]))
    def acquire(self, lease: str, key: str, replica: int, lasts: int | None) -> None:
        live = self.live()
        fits = lease in live or (len(live) < 4 and list(live.values()).count(key) < 3)
        lapses_at = None if lasts is None else self.clock.at + lasts
        try:
            self.portal.call(lambda: self.replicas[replica].acquire(RUNS, lease, self.levels(key), for_s=lasts))
        except ConcurrencyLimited:
            assert not fits
        else:
            assert fits
            self.leases[lease] = (live.get(lease, key), float("inf") if lapses_at is None else lapses_at)

    @rule(leases=st.lists(LEASES, unique=True), replica=st.integers(0, 1))
    def renew(self, leases: list[str], replica: int) -> None:
        live = self.live()
        lapses_at = self.clock.at + 30
        lost = self.portal.call(lambda: self.replicas[replica].renew(RUNS, leases, for_s=30))
        assert sorted(lost) == sorted(lease for lease in leases if lease not in live)
        for lease in set(leases) - set(lost):
            self.leases[lease] = (live[lease], lapses_at)

    @rule(leases=st.lists(LEASES, unique=True), replica=st.integers(0, 1))
    def release(self, leases: list[str], replica: int) -> None:
        self.portal.call(lambda: self.replicas[replica].release(RUNS, *leases))
        for lease in leases:
            self.leases.pop(lease, None)

    @invariant()
    def both_count_the_same(self) -> None:
        live = list(self.live().values())
        expected = [len(live), *(live.count(key) for key in KEYS)]
        levels = [self.levels(KEYS[0])[0], *(self.levels(key)[1] for key in KEYS)]
        assert [self.portal.call(self.replicas[0].count, RUNS, each) for each in levels] == expected


def test_any_sequence_is_counted_as_the_model_counts(store_directory: Path) -> None:
    """Whatever is acquired, renewed, released and left to lapse, on either replica, nothing drifts."""
    QuotasMachine.directory = store_directory
    run_state_machine_as_test(QuotasMachine, settings=MACHINE)


class StorageMachine(RuleBasedStateMachine):
    """References in a dictionary beside the real ones: both refuse the same, count the same and free the same."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        stored = self.stack.enter_context(self.portal.wrap_async_context_manager(open_stored(self.directory)))
        self.tenant = stored.tenant
        self.storage = Storage(stored.store, stored.tenant)
        self.held: dict[str, tuple[set[str], set[str]]] = {}
        """By referrer: its digests, and the keys that they count for."""

    def teardown(self) -> None:
        self.stack.close()

    def levels(self, key: str) -> list[Level]:
        return [level("tenant", self.tenant, 80), level("key", key, 60)]

    def digests(self, key: str | None) -> set[str]:
        kept = [digests for digests, keys in self.held.values() if key is None or key in keys]
        return set().union(*kept)

    def bytes(self, digests: set[str]) -> int:
        return sum(SIZES[digest] for digest in digests)

    @rule(
        referrer=st.sampled_from(["ctx_a", "ctx_b", "ctx_c"]),
        digests=st.sets(st.sampled_from(sorted(SIZES)), min_size=1),
    )
    def hold(self, referrer: str, digests: set[str]) -> None:
        key = KEYS[0] if referrer == "ctx_a" else KEYS[1]
        fits = all(
            self.bytes(self.digests(owner) | digests) <= most or digests <= self.digests(owner)
            for owner, most in ((None, 80), (key, 60))
        )
        blobs = {digest: SIZES[digest] for digest in sorted(digests)}
        try:
            self.portal.call(self.storage.hold, referrer, blobs, self.levels(key))
        except QuotaExceeded:
            assert not fits
        else:
            assert fits
            kept, keys = self.held.get(referrer, (set(), set()))
            self.held[referrer] = (kept | digests, keys | {key})

    @rule(referrer=st.sampled_from(["ctx_a", "ctx_b", "ctx_c"]))
    def drop(self, referrer: str) -> None:
        before = self.digests(None)
        self.held.pop(referrer, None)
        assert set(self.portal.call(self.storage.drop, referrer)) == before - self.digests(None)

    @invariant()
    def both_count_the_same(self) -> None:
        levels = [self.levels(KEYS[0])[0], *(self.levels(key)[1] for key in KEYS)]
        found = [self.portal.call(self.storage.used_bytes, each) for each in levels]
        assert found == [self.bytes(self.digests(owner)) for owner in (None, *KEYS)]


def test_any_sequence_of_references_is_counted_as_the_model_counts(store_directory: Path) -> None:
    """Whatever refers to which blobs in whatever order, each counts once at each level for as long as it is needed."""
    StorageMachine.directory = store_directory
    run_state_machine_as_test(StorageMachine, settings=MACHINE)


async def test_replicas_that_race_acquire_no_more_than_the_limit(store_directory: Path, stored: Stored) -> None:
    """Of 64 that want a place over two connections at once, exactly as many get one as there are."""
    refused = 0
    async with open_store(data_directory=store_directory, redis_url=None) as other:
        replicas = [Quotas(store, stored.tenant, Clock().read) for store in (stored.store, other)]

        async def want(number: int) -> None:
            nonlocal refused
            try:
                await replicas[number % 2].acquire(
                    RUNS, f"run_{number}", [level("tenant", stored.tenant, 10)], for_s=None
                )
            except ConcurrencyLimited:
                refused += 1

        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(want, number)
    assert refused == 54


async def test_replicas_that_race_keep_no_more_bytes_than_the_limit(store_directory: Path, stored: Stored) -> None:
    """Of 32 payloads that are kept over two connections at once, only those are that fit."""
    tenant = level("tenant", stored.tenant, 100)
    async with open_store(data_directory=store_directory, redis_url=None) as other:
        replicas = [Storage(store, stored.tenant) for store in (stored.store, other)]

        async def keep(number: int) -> None:
            with suppress(QuotaExceeded):
                await replicas[number % 2].hold(f"ctx_{number}", {f"{number:064x}": 30}, [tenant])

        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(keep, number)
        assert await replicas[0].used_bytes(tenant) == 90


async def test_what_stays_is_refused_as_a_quota(stored: Stored) -> None:
    """Too many contexts is not a matter of waiting, and says so."""
    quotas = Quotas(stored.store, stored.tenant, Clock().read)
    with pytest.raises(QuotaExceeded, match="delete"):
        await quotas.acquire(Counted.OPEN_CONTEXTS, "ctx_a", [level("tenant", stored.tenant, 0)], for_s=None)
