"""The audit log over a real store, and what becomes of it when somebody writes to the store past it."""

from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest
from service.store.connection import open_store
from service.tenants.audit import AuditLog, Deed
from service.tenants.key_files import KeyFile
from tests.clock import Clock
from tests.store_fixture import Stored
from tests.tenants.conftest import PEPPER

pytestmark = pytest.mark.anyio


def deed(number: int) -> Deed:
    return Deed(action="key.created", by="operator", target=f"key_{number}", details={"name": "n"})


@pytest.fixture
async def log(stored: Stored) -> AuditLog:
    """A chain of five records."""
    found = AuditLog(stored.store, PEPPER, stored.tenant, Clock())
    for number in range(1, 6):
        await found.record(deed(number))
    return found


async def test_records_come_back_in_order(log: AuditLog) -> None:
    """What was recorded is read in its order, page by page, and the chain is whole."""
    first = await log.page(limit=2)
    rest = await log.page(after=first[-1].number)
    assert [record.deed for record in (*first, *rest)] == [deed(number) for number in range(1, 6)]
    verdict = await log.verify()
    assert (verdict.records, verdict.broken_at, verdict.last_digest) == (5, None, rest[-1].digest)


@pytest.mark.parametrize("what", ["changed", "left out", "moved", "cut off", "first gone"])
async def test_whoever_writes_past_it_is_noticed(stored: Stored, log: AuditLog, what: str) -> None:
    """A record that is changed, left out, put in another's place or cut off at either end breaks the chain there."""
    chain = f"rlm:{{{stored.tenant}}}:audit"
    entries = await stored.store.read("XRANGE", chain, "-", "+")
    assert isinstance(entries, list)
    fields = [entry[1] for entry in entries if isinstance(entry, list)]
    write = stored.store.write
    await write("DEL", chain)
    if what == "moved":
        fields[2] = fields[3]
    for number, field in enumerate(fields, start=1):
        assert isinstance(field, list)
        digest, text = field[1], field[3]
        assert isinstance(digest, bytes)
        assert isinstance(text, bytes)
        if (what, number) in {("left out", 3), ("cut off", 5), ("first gone", 1)}:
            continue
        if what == "changed" and number == 3:
            text = text.replace(b"key_3", b"key_9")
        await write("XADD", chain, f"{number}-0", "d", digest, "r", text)
    expected = {"changed": 3, "left out": 3, "moved": 3, "cut off": 5, "first gone": 1}
    assert (await log.verify()).broken_at == expected[what]


async def test_a_chain_of_another_secret_is_not_ours(stored: Stored, log: AuditLog) -> None:
    """Without the installation's secret nobody can make a chain that holds."""
    other = AuditLog(stored.store, KeyFile(b"another secret"), stored.tenant, Clock())
    assert (await other.verify()).broken_at == 1
    await other.record(deed(6))
    assert (await log.verify()).broken_at == 6


async def test_replicas_that_append_at_once_make_one_chain(store_directory: Path, stored: Stored) -> None:
    """Nothing is lost and nothing forks when several replicas append to one chain."""
    async with open_store(data_directory=store_directory, redis_url=None) as other:
        logs = [AuditLog(store, PEPPER, stored.tenant, Clock()) for store in (stored.store, other)]
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(logs[number % 2].record, deed(number))
    verdict = await logs[0].verify()
    assert (verdict.records, verdict.broken_at) == (20, None)
    assert {record.deed.target for record in await logs[0].page()} == {f"key_{number}" for number in range(20)}


async def test_the_log_is_bounded_and_what_is_kept_still_holds(stored: Stored) -> None:
    """The oldest records make room, and the chain is verified from where it begins now."""
    log = AuditLog(stored.store, PEPPER, stored.tenant, Clock(), most_records=3)
    for number in range(1, 8):
        await log.record(deed(number))
    assert [record.number for record in await log.page()] == [5, 6, 7]
    verdict = await log.verify()
    assert (verdict.records, verdict.broken_at) == (3, None)


async def test_a_payload_does_not_fit(log: AuditLog) -> None:
    """Texts of the log are short, so that no payload gets into it."""
    with pytest.raises(BadRequest):
        await log.record(Deed(action="x", by="operator", target="t" * 257))
    with pytest.raises(BadRequest):
        await log.record(Deed(action="x", by="operator", target="t", details={str(n): "" for n in range(17)}))
