"""API keys over a real store."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, KeyId, TenantId, new_id
from service.store.connection import open_store
from service.tenants.api_keys import REMEMBERED_S, USED_EVERY_S, ApiKeys, IssuedKey
from service.tenants.audit import AuditLogs
from service.tenants.errors import ModelNotAllowed, NotPermitted, QuotaExceeded, TenantSuspended, Unauthenticated
from service.tenants.key_files import KeyFile
from service.tenants.key_plans import LONGEST_LIFE_S, KeyRequest
from service.tenants.key_secrets import new_secret, parse_secret
from service.tenants.tenants import Tenants
from service.tenants.values import OPERATOR, Caller, CallerLimits, Scope
from tests.clock import Clock
from tests.store_fixture import Stored
from tests.tenants.conftest import PEPPER, Rooms

pytestmark = pytest.mark.anyio

RUNS = frozenset({Scope.RUNS})
MAKER = frozenset({Scope.RUNS, Scope.KEYS})


async def issue(rooms: Rooms, request: KeyRequest | None = None) -> IssuedKey:
    return await rooms.keys.create(rooms.tenant.id, request or KeyRequest(name="k", scopes=RUNS), by=OPERATOR)


async def maker(rooms: Rooms, **given: object) -> Caller:
    request = KeyRequest(name="maker", scopes=MAKER, **given)  # type: ignore[arg-type]
    return await rooms.keys.authenticate((await issue(rooms, request)).secret)


async def test_a_key_is_recognised_as_its_tenants(rooms: Rooms) -> None:
    """Whoever has a key's secret is that key, of that tenant."""
    issued = await issue(rooms)
    caller = await rooms.keys.authenticate(issued.secret)
    assert (caller.key, caller.tenant) == (issued.key, rooms.tenant)


async def test_a_wrong_secret_is_refused(rooms: Rooms) -> None:
    """A well-formed key with the id of a real one and another secret opens nothing."""
    issued = await issue(rooms)
    with pytest.raises(Unauthenticated):
        await rooms.keys.authenticate(new_secret(issued.key.id).text)


async def test_a_secret_under_another_pepper_is_refused(stored: Stored, rooms: Rooms) -> None:
    """Without the pepper, what the store holds recognises nobody."""
    issued = await issue(rooms)
    other = ApiKeys(stored.store, KeyFile(b"another pepper"), rooms.logs, rooms.clock)
    with pytest.raises(Unauthenticated):
        await other.authenticate(issued.secret)


async def test_the_secret_is_nowhere_in_the_store(stored: Stored, rooms: Rooms) -> None:
    """What is kept of a key contains neither its secret nor the part after its id."""
    issued = await issue(rooms)
    kept = await stored.store.read("HGETALL", f"rlm:{{_service}}:key:{issued.key.id}")
    assert issued.secret[37:].encode() not in repr(kept).encode()
    assert issued.secret not in repr(issued)
    assert issued.secret not in repr(parse_secret(issued.secret))


@pytest.mark.parametrize("spoil", [lambda s: s[:-1], lambda s: s + "0", lambda s: s[:50] + "!" + s[51:], lambda _: ""])
async def test_what_is_no_key_is_refused_without_the_store(spoil: object) -> None:
    """A malformed or mistyped key is refused before anything is read: here there is no store at all."""
    keys = ApiKeys(None, PEPPER, None, Clock())  # type: ignore[arg-type]
    text = new_secret(KeyId(new_id("key"))).text
    with pytest.raises(Unauthenticated):
        await keys.authenticate(spoil(text))  # type: ignore[operator]


async def test_a_mistyped_digit_fails_the_check_sum() -> None:
    """Any single wrong character of the secret part is noticed by the check sum."""
    text = new_secret(KeyId(new_id("key"))).text
    for place in range(37, len(text)):
        assert parse_secret(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :]) is None


async def test_an_expired_key_is_refused_although_it_was_just_used(rooms: Rooms) -> None:
    """A key ends at its time, whatever was remembered of it."""
    issued = await issue(rooms, KeyRequest(name="k", scopes=RUNS, expires_at=rooms.clock.at + 0.5))
    await rooms.keys.authenticate(issued.secret)
    rooms.clock.at += 0.5
    with pytest.raises(Unauthenticated):
        await rooms.keys.authenticate(issued.secret)


async def test_a_key_that_expires_does_so_within_ten_years(rooms: Rooms) -> None:
    """A slip such as 99999999d is refused; ten years are taken."""
    longest = rooms.clock.at + LONGEST_LIFE_S
    issued = await issue(rooms, KeyRequest(name="k", scopes=RUNS, expires_at=longest))
    assert issued.key.expires_at == longest
    with pytest.raises(BadRequest, match="ten years"):
        await issue(rooms, KeyRequest(name="k", scopes=RUNS, expires_at=longest + 1))


async def test_a_revoked_key_ends_on_every_replica(stored: Stored, rooms: Rooms) -> None:
    """Revoked here, a key is refused at once here and within `REMEMBERED_S` on a replica that had just believed it."""
    issued = await issue(rooms)
    other = ApiKeys(stored.store, PEPPER, rooms.logs, rooms.clock)
    await other.authenticate(issued.secret)
    await rooms.keys.authenticate(issued.secret)
    await rooms.keys.revoke(issued.key.id, by=OPERATOR)
    with pytest.raises(Unauthenticated):
        await rooms.keys.authenticate(issued.secret)
    rooms.clock.at += REMEMBERED_S
    with pytest.raises(Unauthenticated):
        await other.authenticate(issued.secret)


async def test_a_suspended_tenants_keys_are_refused_until_it_is_resumed(rooms: Rooms) -> None:
    """A suspension holds for every key of the tenant within `REMEMBERED_S`, and ends likewise."""
    issued = await issue(rooms)
    await rooms.keys.authenticate(issued.secret)
    await rooms.tenants.suspend(rooms.tenant.id, by=OPERATOR)
    rooms.clock.at += REMEMBERED_S
    with pytest.raises(TenantSuspended):
        await rooms.keys.authenticate(issued.secret)
    await rooms.tenants.resume(rooms.tenant.id, by=OPERATOR)
    rooms.clock.at += REMEMBERED_S
    await rooms.keys.authenticate(issued.secret)


async def test_both_secrets_work_during_the_overlap_of_a_rotation(rooms: Rooms) -> None:
    """A rotated key stays the same key; its old secret works until the overlap ends."""
    old = await issue(rooms)
    new = await rooms.keys.rotate(old.key.id, overlap_s=60, by=OPERATOR)
    assert new.key.id == old.key.id
    await rooms.keys.authenticate(old.secret)
    await rooms.keys.authenticate(new.secret)
    rooms.clock.at += 60
    await rooms.keys.authenticate(new.secret)
    with pytest.raises(Unauthenticated):
        await rooms.keys.authenticate(old.secret)


async def test_rotations_that_race_leave_both_new_secrets_usable(stored: Stored, rooms: Rooms) -> None:
    """Of two rotations at once neither hands out a secret that the other silently ended."""
    old = await issue(rooms)
    issued: list[IssuedKey] = []

    async def rotate() -> None:
        other = ApiKeys(stored.store, PEPPER, rooms.logs, rooms.clock)
        issued.append(await other.rotate(old.key.id, overlap_s=60, by=OPERATOR))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rotate)
        tasks.start_soon(rotate)
    for each in issued:
        await rooms.keys.authenticate(each.secret)


async def test_a_revoked_key_cannot_be_rotated_back(rooms: Rooms) -> None:
    """Rotation gives an ended key no new life."""
    issued = await issue(rooms)
    await rooms.keys.revoke(issued.key.id, by=OPERATOR)
    with pytest.raises(BadRequest):
        await rooms.keys.rotate(issued.key.id, overlap_s=60, by=OPERATOR)


async def test_use_is_noted_to_the_minute(stored: Stored, rooms: Rooms) -> None:
    """A key's last use is written down, but not at every use."""
    issued = await issue(rooms)
    await rooms.keys.authenticate(issued.secret)
    first = rooms.clock.at
    rooms.clock.at += USED_EVERY_S / 2
    await rooms.keys.authenticate(issued.secret)
    assert (await rooms.keys.get(issued.key.id, by=OPERATOR)).last_used_at == first
    rooms.clock.at += USED_EVERY_S
    await rooms.keys.authenticate(issued.secret)
    assert (await rooms.keys.get(issued.key.id, by=OPERATOR)).last_used_at == rooms.clock.at


@pytest.mark.parametrize(
    "wider",
    [
        KeyRequest(name="k", scopes=frozenset({Scope.CONTEXTS})),
        KeyRequest(name="k", scopes=frozenset({Scope.ADMIN})),
        KeyRequest(name="k", scopes=RUNS, models=("openai/*",)),
        KeyRequest(name="k", scopes=RUNS, models=("*",)),
        KeyRequest(name="k", scopes=RUNS, limits=CallerLimits(parallel_runs=3)),
        KeyRequest(name="k", scopes=RUNS, limits=CallerLimits(nano_usd_per_day=11)),
        KeyRequest(name="k", scopes=RUNS, expires_at=1_800_000_101.0),
    ],
    ids=["scope", "admin", "model", "all models", "limit", "money", "expiry"],
)
async def test_a_key_hands_out_nothing_that_it_lacks(rooms: Rooms, wider: KeyRequest) -> None:
    """A key with the scope `keys` makes no key with a scope, model, limit or life beyond its own."""
    caller = await maker(
        rooms,
        models=("openai/gpt-5*",),
        limits=CallerLimits(parallel_runs=2, nano_usd_per_day=10),
        expires_at=1_800_000_100.0,
    )
    with pytest.raises(NotPermitted):
        await rooms.keys.create(rooms.tenant.id, wider, by=caller)


async def test_what_is_left_out_is_inherited(rooms: Rooms) -> None:
    """A key made without limits, models and expiry has its maker's, and counts against its maker's limits too."""
    limits = CallerLimits(parallel_runs=2)
    caller = await maker(rooms, models=("openai/gpt-5*",), limits=limits, expires_at=1_800_000_100.0)
    issued = await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=RUNS), by=caller)
    assert (issued.key.models, issued.key.limits, issued.key.expires_at) == (
        ("openai/gpt-5*",),
        limits,
        1_800_000_100.0,
    )
    made = await rooms.keys.authenticate(issued.secret)
    assert [level.owner for level in made.levels] == [rooms.tenant.id, issued.key.id, caller.key.id]


async def test_a_key_ends_with_the_one_that_made_it(rooms: Rooms) -> None:
    """Revoking a key ends what it made, so that a stolen key leaves nothing behind."""
    caller = await maker(rooms)
    issued = await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=RUNS), by=caller)
    await rooms.keys.authenticate(issued.secret)
    await rooms.keys.revoke(caller.key.id, by=OPERATOR)
    with pytest.raises(Unauthenticated):
        await rooms.keys.authenticate(issued.secret)


async def test_a_key_cannot_free_itself(rooms: Rooms) -> None:
    """A limited key changes neither itself nor, beyond its own limits, what it made; others' keys it does not see."""
    caller = await maker(rooms, limits=CallerLimits(parallel_runs=2))
    with pytest.raises(NotPermitted):
        await rooms.keys.update(caller.key.id, limits=CallerLimits(), by=caller)
    child = await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=RUNS), by=caller)
    with pytest.raises(NotPermitted):
        await rooms.keys.update(child.key.id, limits=CallerLimits(parallel_runs=3), by=caller)
    foreign = await issue(rooms)
    for attempt in (
        rooms.keys.get(foreign.key.id, by=caller),
        rooms.keys.revoke(foreign.key.id, by=caller),
        rooms.keys.update(foreign.key.id, name="mine", by=caller),
        rooms.keys.rotate(foreign.key.id, overlap_s=0, by=caller),
        rooms.keys.create(TenantId(new_id("ten")), KeyRequest(name="k", scopes=RUNS), by=caller),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert [key.id for key in await rooms.keys.of_tenant(rooms.tenant.id, by=caller)] == [caller.key.id, child.key.id]


async def test_keys_make_keys_only_so_deep(rooms: Rooms) -> None:
    """The chain of makers is bounded, because each is looked at when a key is used."""
    caller = await maker(rooms)
    for _ in range(4):
        issued = await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=MAKER), by=caller)
        caller = await rooms.keys.authenticate(issued.secret)
    with pytest.raises(NotPermitted):
        await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=MAKER), by=caller)


async def test_without_the_scope_no_key_is_made(rooms: Rooms) -> None:
    """A key without the scope `keys` makes none."""
    caller = await rooms.keys.authenticate((await issue(rooms)).secret)
    with pytest.raises(NotPermitted):
        await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=RUNS), by=caller)


async def test_a_maker_with_a_list_of_models_binds_what_it_made(rooms: Rooms) -> None:
    """A model is allowed when the key and every key above it allow it."""
    caller = await maker(rooms, models=("openai/gpt-5*", "scripted/root"))
    issued = await rooms.keys.create(
        rooms.tenant.id, KeyRequest(name="k", scopes=RUNS, models=("openai/gpt-5-mini",)), by=caller
    )
    made = await rooms.keys.authenticate(issued.secret)
    made.require_model("openai/gpt-5-mini")
    with pytest.raises(ModelNotAllowed):
        made.require_model("scripted/root")


async def test_revoked_keys_make_room_and_live_ones_do_not(rooms: Rooms, stored: Stored) -> None:
    """A tenant has a bounded number of keys; a revoked one is forgotten when its place is needed."""
    rooms = replace(rooms, keys=ApiKeys(stored.store, PEPPER, rooms.logs, rooms.clock, most_keys=2))
    first = await issue(rooms)
    await issue(rooms)
    with pytest.raises(QuotaExceeded):
        await issue(rooms)
    await rooms.keys.revoke(first.key.id, by=OPERATOR)
    await issue(rooms)
    with pytest.raises(NotFound):
        await rooms.keys.get(first.key.id, by=OPERATOR)


async def test_of_replicas_that_start_at_once_one_gets_the_first_key(data_directory: Path) -> None:
    """The first start makes the tenant `default` and exactly one admin key, however many replicas start."""
    async with (
        open_store(data_directory=data_directory, redis_url=None) as one,
        open_store(data_directory=data_directory, redis_url=None) as two,
    ):
        replicas = [
            ApiKeys(store, PEPPER, AuditLogs(store, PEPPER, Clock()), Clock()) for store in (one, two) for _ in range(4)
        ]
        issued: list[IssuedKey | None] = []
        kept: list[IssuedKey] = []

        async def keep(made: IssuedKey) -> None:
            kept.append(made)

        async def start(keys: ApiKeys) -> None:
            issued.append(await keys.first_key(keep))

        async with anyio.create_task_group() as tasks:
            for keys in replicas:
                tasks.start_soon(start, keys)
        (first,) = [each for each in issued if each is not None]
        assert (await replicas[-1].authenticate(first.secret)).is_operator
        assert len(await replicas[0].of_tenant(EMBEDDED_TENANT, by=OPERATOR)) == 1
        assert await replicas[0].first_key(keep) is None
        assert first in kept
        assert [tenant.id for tenant in await Tenants(one, AuditLogs(one, PEPPER, Clock()), Clock()).page()] == [
            EMBEDDED_TENANT
        ]


async def test_what_is_done_to_keys_is_logged(rooms: Rooms) -> None:
    """Making, changing, rotating and revoking a key leave records of who did it in which request, and no secret."""
    caller = replace(await maker(rooms), request_id="req_1")
    issued = await rooms.keys.create(rooms.tenant.id, KeyRequest(name="k", scopes=RUNS), by=caller)
    await rooms.keys.update(issued.key.id, name="n", by=caller)
    rotated = await rooms.keys.rotate(issued.key.id, overlap_s=0, by=caller)
    await rooms.keys.revoke(issued.key.id, by=caller)
    records = [record.deed for record in await rooms.logs.of(rooms.tenant.id).page()][2:]
    assert [each.action for each in records] == ["key.created", "key.changed", "key.rotated", "key.revoked"]
    assert {(each.by, each.target, each.request_id) for each in records} == {(caller.key.id, issued.key.id, "req_1")}
    assert issued.secret[37:] not in repr(records)
    assert rotated.secret[37:] not in repr(records)
