"""The connection: raw replies, scripts that survive a forgetful server, hints, and a pool that stays whole."""

import hashlib

import anyio
import anyio.lowlevel
import pytest

from service.errors import BadRequest
from service.ids import TenantId
from service.store.connection import CONNECTIONS, ScriptCall
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.store.scripts import Script
from tests.store_fixture import Stored

pytestmark = pytest.mark.anyio


def script(body: str) -> Script:
    return Script(name="test.lua", body=body.encode(), sha1=hashlib.sha1(body.encode()).hexdigest())


async def test_a_script_runs_although_the_server_has_forgotten_it(stored: Stored) -> None:
    """A server that lost its scripts (a restart) is sent them again, and each call runs once."""
    key = Keys(stored.tenant)("counter")
    count = script("return redis.call('INCR', KEYS[1])")
    assert await stored.store.run(count, [key], [], is_idempotent=False) == 1
    await stored.store.write("SCRIPT", "FLUSH")
    assert await stored.store.run(count, [key], [], is_idempotent=False) == 2
    await stored.store.write("SCRIPT", "FLUSH")
    calls = [ScriptCall(script=count, keys=[key], arguments=[]) for _ in range(3)]
    assert await stored.store.run_many(calls) == [3, 4, 5]


async def test_a_refused_command_is_reported_without_its_payload(stored: Stored) -> None:
    """What the server says about a command is passed on, what the command carried is not."""
    key = Keys(stored.tenant)("text")
    await stored.store.write("SET", key, "a secret payload")
    with pytest.raises(StoreFailed) as failed:
        await stored.store.write("HSET", key, "field", "a secret payload")
    assert "WRONGTYPE" in str(failed.value)
    assert "secret" not in str(failed.value)


async def test_several_writes_take_place_together(stored: Stored) -> None:
    """`write_many` answers each command in its place, and a wrong one among them is an error."""
    key = Keys(stored.tenant)("a")
    assert await stored.store.write_many([("SET", key, "1"), ("INCR", key)]) == [b"OK", 2]
    with pytest.raises(StoreFailed):
        await stored.store.write_many([("INCR", key), ("HGET", key, "x")])


async def test_cancelled_commands_leave_the_pool_whole(stored: Stored) -> None:
    """After ten times more cancelled commands than there are connections, commands still go through."""
    key = Keys(stored.tenant)("numbers")
    for wave in range(10):
        async with anyio.create_task_group() as group:
            for number in range(CONNECTIONS):
                group.start_soon(stored.store.write, "SADD", key, f"{wave}:{number}")
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        for _ in range(2 * CONNECTIONS):
            group.start_soon(stored.store.read, "SCARD", key)


async def test_a_hint_wakes_whoever_listens(stored: Stored) -> None:
    """A reader that entered before it read cannot miss a hint given after."""
    topic = Keys(stored.tenant)("topic")
    with anyio.fail_after(30), stored.store.listen(topic) as hint:
        await stored.store.hint(topic)
        await hint.wait(at_most_s=60)
        await stored.store.hint(topic)
        await hint.wait(at_most_s=60)


async def test_listening_outlives_a_lost_connection(stored: Stored) -> None:
    """When the server drops the listening connection, everyone is told to look, and hints arrive again."""
    topic = Keys(stored.tenant)("topic")
    with anyio.fail_after(30), stored.store.listen(topic) as hint:
        await stored.store.write("CLIENT", "KILL", "TYPE", "pubsub")
        await hint.wait(at_most_s=60)
        while await stored.store.read("PUBSUB", "NUMSUB", "rlm:hints") == [b"rlm:hints", 0]:
            await anyio.lowlevel.checkpoint()
        await stored.store.hint(topic)
        await hint.wait(at_most_s=60)


@pytest.mark.parametrize("tenant", ["", "a}b", "a b", "x" * 65, "ä"])
def test_a_tenant_id_cannot_break_out_of_its_hash_tag(tenant: str) -> None:
    """Only ids that are safe inside the braces of a key become part of one."""

    with pytest.raises(BadRequest):
        Keys(TenantId(tenant))
