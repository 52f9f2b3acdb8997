"""Tenants at work: none whose run was abandoned is missed, and who is idle costs nothing."""

import time
from functools import partial
from pathlib import Path

import pytest

from service.ids import RunId, TenantId, new_id
from service.journal.redis_journal import Journal
from service.journal.tenants_at_work import (
    AT_WORK,
    IDLE_AFTER_S,
    TENANTS,
    TenantsAtWork,
    note_at_work,
    tenants_with_runs,
)
from service.store.connection import open_store
from tests.exchange_doubles import Acting, Counting
from tests.journal.runs import submitted
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio


def journal_of(stored: Stored, tenant: TenantId) -> Journal:
    return Journal(stored.store, stored.blobs, tenant)


async def abandoned_run(stored: Stored, tenant: TenantId) -> RunId:
    run = submitted()
    await journal_of(stored, tenant).open_run(run)
    return run.run_id


async def test_who_has_an_abandoned_run_is_found_however_long_it_lies(stored: Stored) -> None:
    """Also when it was noted long ago; it is struck out when its last run has ended, and found again with the next."""
    run_id = await abandoned_run(stored, stored.tenant)

    async def much_later() -> float:
        return time.time() + 10 * IDLE_AFTER_S

    later = TenantsAtWork(stored.store, much_later)
    for _ in range(2):
        assert stored.tenant in await later.with_abandoned_runs()
    journal = journal_of(stored, stored.tenant)
    await journal.claim(run_id, "rep_1", for_s=60)
    assert stored.tenant not in await later.with_abandoned_runs()
    assert await stored.store.read("ZSCORE", AT_WORK, stored.tenant) is not None
    epoch = (await journal.claim(run_id, "rep_1", for_s=60)).epoch
    await stored.store.write("ZREM", f"rlm:{{{stored.tenant}}}:runs:unfinished", run_id)
    assert epoch
    await later.with_abandoned_runs()
    assert await stored.store.read("ZSCORE", AT_WORK, stored.tenant) is None
    await abandoned_run(stored, stored.tenant)
    assert stored.tenant in await later.with_abandoned_runs()


async def test_a_tenant_that_is_noted_while_it_is_looked_at_stays(stored: Stored, store_directory: Path) -> None:
    """Between the look at its runs and its striking out a run of it may be about to be opened."""
    await note_at_work(stored.store, stored.tenant, 1.0)

    async def meanwhile() -> None:
        await note_at_work(stored.store, stored.tenant, time.time())

    over = partial(Acting, "ZCARD", "after", meanwhile)
    async with open_store(data_directory=store_directory, redis_url=None, over=over) as store:
        await TenantsAtWork(store, store.now).with_abandoned_runs()
    assert await stored.store.read("ZSCORE", AT_WORK, stored.tenant) is not None


async def test_tenants_of_an_earlier_version_are_asked_after_once(stored: Stored) -> None:
    """They are known as such that have had runs; nothing of theirs is lost at the upgrade."""
    await abandoned_run(stored, stored.tenant)
    await stored.store.write("ZREM", AT_WORK, stored.tenant)
    assert stored.tenant in await TenantsAtWork(stored.store, stored.store.now).with_abandoned_runs()


async def test_a_look_does_not_grow_with_tenants_that_are_idle(stored: Stored, store_directory: Path) -> None:
    """A thousand of them are asked after no more; with a thousand at work a look takes two round trips."""
    idle = [TenantId(new_id("ten")) for _ in range(1000)]
    sent: list[int] = []
    over = partial(Counting, sent)
    async with open_store(data_directory=store_directory, redis_url=None, over=over) as store:
        at_work = TenantsAtWork(store, store.now)
        await at_work.with_abandoned_runs()
        sent.clear()
        await at_work.with_abandoned_runs()
        without = sum(sent)
        await stored.store.write("SADD", TENANTS, *idle)
        await stored.store.write("ZADD", AT_WORK, *(part for tenant in idle for part in ("1.0", tenant)))
        await at_work.with_abandoned_runs()
        sent.clear()
        await at_work.with_abandoned_runs()
        assert sum(sent) <= without
        await stored.store.write("ZADD", AT_WORK, *(part for tenant in idle for part in (repr(time.time()), tenant)))
        sent.clear()
        assert not set(idle).intersection(await at_work.with_abandoned_runs())
        assert len(sent) <= 4
    await stored.store.write("ZREM", AT_WORK, *idle)
    await stored.store.write("SREM", TENANTS, *idle)
    assert not set(idle).intersection(await tenants_with_runs(stored.store))
