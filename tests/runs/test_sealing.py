"""Sealing: journals of ended runs leave the store's memory, and are read as before."""

from functools import partial

import anyio
import pytest

from service.ids import RunId, born_at
from service.journal.redis_journal import Journal
from service.loop.events import Event, RootUnavailable
from service.loop.values import CallOutcome, Purpose
from service.runs.retention.sealing import LEASE, SealingLook, keep_sealing, seal_runs
from service.store.errors import RecordUnreadable, StoreFailed
from service.store.keys import Keys
from service.store.sole_lease import SoleLease
from tests.journal.runs import finished, submitted
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio

FOR_EVER = 9e12


async def for_ever() -> float:
    return FOR_EVER


def note(number: int) -> Event:
    return RootUnavailable(
        at=float(number), purpose=Purpose.TURN, outcome=CallOutcome.UNAVAILABLE, message=f"{number} " + "x" * 3_000
    )


async def run_of(journal: Journal, *, events: int, ends: bool = True, parent: RunId | None = None) -> RunId:
    first = submitted(parent=parent)
    await journal.open_run(first)
    for number in range(2, events):
        await journal.append(first.run_id, 1, note(number))
    await journal.append(first.run_id, 1, finished() if ends else note(events))
    return first.run_id


async def in_memory(stored: Stored, run_id: RunId) -> int:
    """How many events of a run stand there."""
    length = await stored.store.read("XLEN", Keys(stored.tenant)("run", run_id, "events"))
    assert isinstance(length, int)
    return length


@pytest.fixture
def journal(stored: Stored) -> Journal:
    return Journal(stored.store, stored.blobs, stored.tenant)


async def test_only_what_has_ended_and_is_large_is_sealed(journal: Journal, stored: Stored) -> None:
    """Large journals of ended runs go, with their child runs'; small ones, unfinished ones and later ones stay. Each is
    read as before, and asking again does nothing."""
    small, going = await run_of(journal, events=3), await run_of(journal, events=30, ends=False)
    large = await run_of(journal, events=30)
    child = await run_of(journal, events=20, parent=large)
    runs = (small, going, large, child)
    before = [await journal.read_all(run_id) for run_id in runs]
    born = born_at(small)
    assert born is not None
    assert await seal_runs(journal, before=born) == SealingLook(sealed=0, after=None)
    look = await seal_runs(journal, before=FOR_EVER)
    assert look == SealingLook(sealed=2, after=None)
    assert [await in_memory(stored, run_id) for run_id in runs] == [3, 30, 1, 1]
    assert [await journal.read_all(run_id) for run_id in runs] == before
    assert (await seal_runs(journal, before=FOR_EVER)).sealed == 0
    assert (await seal_runs(journal, before=FOR_EVER, after=large)) == SealingLook(sealed=0, after=None)
    assert [each async for each in journal.follow(large, 25)] == before[2][25:]
    assert await journal.append(going, 1, note(31)) == 31
    await journal.forget(large)
    assert await stored.store.read("KEYS", Keys(stored.tenant)("run", large, "*")) == []


async def test_a_store_that_fails_is_asked_again(journal: Journal, stored: Stored) -> None:
    """A look that failed is made again, and one tenant's trouble keeps nobody else's journals in memory."""
    large = await run_of(journal, events=30)
    asked = 0

    async def tenants() -> list[Journal]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreFailed("not now")
        return [broken, journal]

    class Broken(Journal):
        async def oldest_runs(self, limit: int, after: RunId | None = None) -> list[RunId]:
            raise StoreFailed("not this one")

    broken = Broken(stored.store, stored.blobs, stored.tenant)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(keep_sealing, tenants, sealer(stored), now=for_ever, every_s=0.01))
            await until_sealed(stored, large)
            group.cancel_scope.cancel()


async def test_what_was_not_sealed_in_its_turn_has_another(journal: Journal, stored: Stored) -> None:
    """A run that could not be read, or had not ended, when its turn came keeps none behind it waiting, and is sealed
    when the looks begin anew."""
    large, last = await run_of(journal, events=30), await run_of(journal, events=30)
    going = await run_of(journal, events=30, ends=False)
    unreadable = True

    class Damaged(Journal):
        async def seal_ended(self, run_id: RunId) -> bool:
            if run_id == large and unreadable:
                raise RecordUnreadable("a damaged event")
            return await super().seal_ended(run_id)

    async def tenants() -> list[Journal]:
        return [damaged]

    damaged = Damaged(stored.store, stored.blobs, stored.tenant)
    looks = partial(keep_sealing, tenants, sealer(stored), now=for_ever, every_s=0.01, begin_anew_s=0)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(looks)
            await until_sealed(stored, last)
            assert await in_memory(stored, large) == 30
            unreadable = False
            await journal.append(going, 1, finished())
            await until_sealed(stored, large)
            await until_sealed(stored, going)
            group.cancel_scope.cancel()


async def test_one_replica_seals_at_a_time(journal: Journal, stored: Stored) -> None:
    """While another replica has the lease, nothing is looked at here."""
    asked = anyio.Event()
    assert await sealer(stored, "another").hold(for_s=600)

    async def tenants() -> list[Journal]:
        pytest.fail("this replica does not have the lease")

    class Asked(SoleLease):
        async def hold(self, *, for_s: float) -> bool:
            held = await super().hold(for_s=for_s)
            asked.set()
            return held

    lease = Asked(stored.store, f"{LEASE}:{stored.tenant}", "this")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(keep_sealing, tenants, lease, now=for_ever, every_s=0.01))
            await asked.wait()
            group.cancel_scope.cancel()


def sealer(stored: Stored, replica: str = "this") -> SoleLease:
    return SoleLease(stored.store, f"{LEASE}:{stored.tenant}", replica)


async def until_sealed(stored: Stored, run_id: RunId) -> None:
    while await in_memory(stored, run_id) != 1:  # noqa: ASYNC110 -- the store is asked, nobody tells
        await anyio.sleep(0.01)
