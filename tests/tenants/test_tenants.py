"""Tenants over a real store, and the key files of the installation."""

import os
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, TenantId, new_id
from service.store.errors import RecordUnreadable
from service.tenants.errors import Unauthenticated
from service.tenants.key_files import open_key_file
from service.tenants.key_plans import KeyRequest
from service.tenants.recent import Recent
from service.tenants.records import tenant_key
from service.tenants.values import OPERATOR, CallerLimits, Scope
from tests.clock import Clock
from tests.store_fixture import Stored
from tests.tenants.conftest import Rooms

pytestmark = pytest.mark.anyio


async def test_changes_that_race_all_take_place(rooms: Rooms) -> None:
    """A new name and new limits that are set at once are both there afterwards."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(rooms.tenants.update, rooms.tenant.id, name="renamed", by=OPERATOR))
        tasks.start_soon(
            partial(rooms.tenants.update, rooms.tenant.id, limits=CallerLimits(parallel_runs=1), by=OPERATOR)
        )
        tasks.start_soon(partial(rooms.tenants.suspend, rooms.tenant.id, by=OPERATOR))
    found = await rooms.tenants.get(rooms.tenant.id)
    assert (found.name, found.limits.parallel_runs, found.may_act) == ("renamed", 1, False)


async def test_a_page_goes_on_where_the_one_before_ended(rooms: Rooms) -> None:
    """What comes after a tenant is what was made later, without itself and without what was made before."""
    made = [rooms.tenant]
    for name in ("second", "third"):
        rooms.clock.at += 1
        made.append(await rooms.tenants.create(name, by=OPERATOR))
    following = [each.id for each in await rooms.tenants.page(after=made[1].id, limit=1000)]
    assert [each.id in following for each in made] == [False, False, True]


async def test_a_tenant_that_cannot_be_read_hides_no_other(rooms: Rooms, stored: Stored) -> None:
    """Whoever looks after all tenants finds the others, and whoever asks for this one is told what is wrong with it."""
    damaged, erased = [await rooms.tenants.create(name, by=OPERATOR) for name in ("damaged", "erased")]
    await rooms.tenants.begin_erasure(erased.id, by=OPERATOR)
    record = await stored.store.read("HGET", tenant_key(damaged.id), "record")
    assert isinstance(record, bytes)
    await stored.store.write("HSET", tenant_key(damaged.id), "record", '{"id": 1}')
    try:
        staying, erasing = await rooms.tenants.that_stay(), await rooms.tenants.being_erased()
        with pytest.raises(RecordUnreadable, match="the record of a tenant cannot be read"):
            await rooms.tenants.get(damaged.id)
    finally:
        await stored.store.write("HSET", tenant_key(damaged.id), "record", record)
    assert rooms.tenant.id in staying
    assert erased.id in erasing
    assert damaged.id not in {*staying, *erasing}


async def test_an_unknown_tenant_is_not_found(rooms: Rooms) -> None:
    """Neither a made-up id nor a key's name in the store reaches anything."""
    for made_up in (new_id("ten"), "_service", "x:keys", ""):
        with pytest.raises(NotFound):
            await rooms.tenants.get(TenantId(made_up))


async def test_limits_beyond_what_can_be_counted_are_refused(rooms: Rooms) -> None:
    """A limit is a whole number from 0 to 2^53-1, and of a rate to a milliard."""
    for unusable in (
        CallerLimits(parallel_runs=-1),
        CallerLimits(storage_bytes=2**53),
        CallerLimits(tokens_per_minute=10**9 + 1),
    ):
        with pytest.raises(BadRequest):
            await rooms.tenants.create("t", limits=unusable, by=OPERATOR)


async def test_a_tenant_under_erasure_gets_no_keys_and_no_way_back(rooms: Rooms) -> None:
    """Once an erasure has begun no key can be made, none works, and it cannot be resumed."""
    issued = await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=frozenset({Scope.RUNS})), by=OPERATOR)
    await rooms.tenants.begin_erasure(rooms.tenant.id, by=OPERATOR)
    with pytest.raises(NotFound):
        await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=frozenset({Scope.RUNS})), by=OPERATOR)
    with pytest.raises(BadRequest):
        await rooms.tenants.resume(rooms.tenant.id, by=OPERATOR)
    assert await rooms.keys.forget_all(rooms.tenant.id) == 1
    with pytest.raises(Unauthenticated):
        await rooms.keys.authenticate(issued.secret)
    await rooms.tenants.forget(rooms.tenant.id, by=OPERATOR)
    with pytest.raises(NotFound):
        await rooms.tenants.get(rooms.tenant.id)


async def test_the_default_tenant_cannot_be_erased(rooms: Rooms) -> None:
    """The command line's own tenant stays."""
    with pytest.raises(BadRequest):
        await rooms.tenants.begin_erasure(EMBEDDED_TENANT, by=OPERATOR)


async def test_processes_that_start_at_once_share_one_key_file(data_directory: Path) -> None:
    """The secret is made once, for its owner only, and everybody reads the same."""
    path = data_directory / "pepper.key"
    found: list[bytes] = []

    async def start() -> None:
        file = await anyio.to_thread.run_sync(lambda: open_key_file(path, setting="RLM_KEY_PEPPER_FILE", is_ours=True))
        found.append(file.mac("x", b"y"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(start)
    assert len(set(found)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(data_directory) == ["pepper.key"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000])
async def test_a_key_file_that_is_no_secret_is_refused(data_directory: Path, content: bytes) -> None:
    """What is too short or too long for a secret is refused with the setting's name."""
    path = data_directory / "pepper.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadRequest, match="RLM_KEY_PEPPER_FILE"):
        open_key_file(path, setting="RLM_KEY_PEPPER_FILE", is_ours=False)


async def test_a_key_file_that_is_open_or_missing_is_refused(data_directory: Path) -> None:
    """One that others can read is no secret any more, and one that the operator named is not made up."""
    path = data_directory / "pepper.key"
    with pytest.raises(BadRequest):
        open_key_file(path, setting="RLM_KEY_PEPPER_FILE", is_ours=False)
    path.write_bytes(b"x" * 64)
    path.chmod(0o644)
    with pytest.raises(BadRequest, match="open to others"):
        open_key_file(path, setting="RLM_KEY_PEPPER_FILE", is_ours=False)


async def test_a_key_of_one_use_says_nothing_about_another(data_directory: Path) -> None:
    """What is derived for one purpose differs from what is derived for another."""
    file = open_key_file(data_directory / "pepper.key", setting="RLM_KEY_PEPPER_FILE", is_ours=True)
    assert file.mac("api-key", b"x") != file.mac("audit", b"x")
    assert repr(file) == "KeyFile()"


def test_caches_forget() -> None:
    """The memory of recognised keys is bounded in number, and a clock set back makes it forget."""
    clock = Clock()
    recent: Recent[int, int] = Recent(2, 1.0, clock)
    for number in range(3):
        recent.put(number, number)
    assert [recent.get(number) for number in range(3)] == [None, 1, 2]
    clock.at -= 0.1
    assert recent.get(2) is None
