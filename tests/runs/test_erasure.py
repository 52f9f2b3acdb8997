"""Erasing a tenant over a real store and a real disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.contexts.redis_contexts import Contexts
from service.errors import NotFound
from service.ids import CallId, RunId, TenantId, new_id
from service.journal.redis_journal import PAGE, Journal
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Charge, Entry, Level
from service.runs.erasure.erasure import ERASURES, Erasure, ErasureStanding
from service.runs.erasure.finishing import keep_finishing
from service.store.blobs import Blobs
from service.store.connection import Store, open_store
from service.store.errors import StoreFailed
from service.store.keys import Keys
from service.store.sole_lease import SoleLease
from service.tenants.audit import OPERATORS_CHAIN
from service.tenants.key_files import KeyFile
from service.tenants.key_plans import KeyRequest
from service.tenants.registry import Registry, open_registry
from service.tenants.values import OPERATOR, Scope
from tests.exchange_doubles import Allowance, Dying
from tests.journal.runs import finished, submitted
from tests.ledger.charges import charge
from tests.store_fixture import Stored, store_directory, stored  # noqa: F401

pytestmark = pytest.mark.anyio

AT = 1_800_000_000.0  # 2027-01-15
BAIT = "a question that nobody may find again"
NAME = "a name that nobody may find again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """Two tenants that each have a bit of everything."""

    directory: Path
    store: Store
    registry: Registry
    ours: TenantId
    theirs: TenantId

    def blobs_of(self, tenant: TenantId) -> Blobs:
        return Blobs(self.directory / tenant)

    def erasure(self) -> Erasure:
        return Erasure(self.store, self.registry, self.blobs_of, lambda: AT)

    async def kept_of(self, tenant: TenantId) -> dict[bytes, object]:
        """The dump of every key of a tenant."""
        names = await self.store.read("KEYS", Keys(tenant)("*"))
        assert isinstance(names, list)
        return {name: await self.store.read("DUMP", name) for name in names if isinstance(name, bytes)}


def registry_over(store: Store) -> Registry:
    return open_registry(
        store, pepper=KeyFile(b"pepper"), vault=KeyFile(b"vault"), now=lambda: AT, is_provider=lambda name: True
    )


async def notes() -> AsyncIterator[bytes]:
    yield b"a" * 10_000


async def fill(filled: Filled, tenant: TenantId) -> None:
    blobs = filled.blobs_of(tenant)
    journal, ledger = Journal(filled.store, blobs, tenant), Ledger(filled.store, tenant, lambda: AT)
    await Contexts(filled.store, blobs, tenant).put_text("notes", notes())
    run = submitted()
    child = submitted(parent=run.run_id)
    for each in (run, child):
        await journal.open_run(each)
        await book(ledger, each.run_id)
    await filled.registry.api_keys.create(tenant, KeyRequest(name="k", scopes=frozenset({Scope.RUNS})), by=OPERATOR)
    await filled.registry.provider_keys_of(tenant).put("openai", "sk-bait-0123456789", by=OPERATOR)


async def book(ledger: Ledger, run_id: RunId) -> None:
    entry = Entry(
        call_id=CallId(f"{run_id}/a0"),
        run_id=run_id,
        model="m",
        purpose="root",
        at=AT,
        nano_usd=7,
        input_tokens=1,
        cached_input_tokens=0,
        output_tokens=1,
    )
    charge = Charge(entry=entry, sub_calls=0)
    accounts = (Account(level=Level.RUN, owner=run_id), *ledger.outer_accounts(()))
    await ledger.reserve([charge], accounts, expires_at=AT + 60)
    await ledger.settle(charge)


@pytest.fixture
async def filled(stored: Stored, tmp_path: Path) -> Filled:  # noqa: F811
    registry = registry_over(stored.store)
    ours = (await registry.tenants.create("ours", by=OPERATOR)).id
    theirs = (await registry.tenants.create("theirs", by=OPERATOR)).id
    filled = Filled(directory=tmp_path, store=stored.store, registry=registry, ours=ours, theirs=theirs)
    await fill(filled, ours)
    await fill(filled, theirs)
    return filled


async def check_erased(filled: Filled) -> None:
    assert await filled.kept_of(filled.ours) == {}
    assert not (filled.directory / filled.ours).exists()
    assert await filled.registry.api_keys.of_tenant(filled.ours, by=OPERATOR) == []
    with pytest.raises(NotFound):
        await filled.registry.tenants.get(filled.ours)
    figures = (await filled.erasure().figures())[filled.ours]
    assert (figures.runs, figures.calls, figures.nano_usd_by_month) == (2, 2, {"2027-01": 14})


async def test_nothing_of_the_tenant_is_left_and_nothing_of_others_is_touched(filled: Filled) -> None:
    """Runs, contexts, blobs, keys and records are gone; the figures stay; another tenant is as it was."""
    before = await filled.kept_of(filled.theirs)
    files = sorted((filled.directory / filled.theirs).rglob("*"))
    await filled.erasure().erase(filled.ours, by=OPERATOR)
    await check_erased(filled)
    assert await filled.kept_of(filled.theirs) == before
    assert sorted((filled.directory / filled.theirs).rglob("*")) == files
    log, last, actions = filled.registry.logs.of(OPERATORS_CHAIN), 0, []
    while page := await log.page(after=last):
        last = page[-1].number
        actions += [record.deed.action for record in page if record.deed.target == filled.ours]
    assert actions == ["tenant.created", "tenant.erasure_began", "tenant.erased"]


async def test_two_that_erase_the_same_tenant_both_end(filled: Filled) -> None:
    """The command beside a replica: whoever comes to the last steps when the record is gone keeps the same figures."""
    erased = await filled.erasure().erase(filled.ours, by=OPERATOR)
    assert await filled.erasure().finish(filled.ours, by=OPERATOR) == erased
    await check_erased(filled)


async def test_what_was_spent_for_runs_that_are_gone_is_added_up_too(filled: Filled) -> None:
    """For one that retention has forgotten, and for a call in flight, which counts at all that it can have cost."""
    journal = Journal(filled.store, filled.blobs_of(filled.ours), filled.ours)
    ledger = Ledger(filled.store, filled.ours, lambda: AT)
    forgotten = submitted()
    await journal.open_run(forgotten)
    await book(ledger, forgotten.run_id)
    await journal.append(forgotten.run_id, 1, finished())
    await journal.forget(forgotten.run_id)
    in_flight = charge("in flight", 100, run=(await journal.list_runs(1))[0])
    await ledger.reserve([in_flight], ledger.outer_accounts(()), expires_at=AT + 60)
    await filled.erasure().erase(filled.ours, by=OPERATOR)
    figures = (await filled.erasure().figures())[filled.ours]
    assert (figures.runs, figures.calls) == (3, 4)
    assert sum(figures.nano_usd_by_month.values()) == 3 * 7 + 100


async def test_an_unknown_tenant_cannot_be_erased(filled: Filled) -> None:
    """What is not there is not found, also the second time."""
    with pytest.raises(NotFound):
        await filled.erasure().erase(TenantId(new_id("ten")), by=OPERATOR)


async def erased_alone(directory: Path, *forbidden: str) -> tuple[bool, list[Path]]:
    """Erase the one tenant of a store of its own, and return whether that is off the log and which files still have
    its name or what was in its journal. The server refuses the commands that are `forbidden`."""
    async with open_store(data_directory=directory, redis_url=None) as store:
        registry = registry_over(store)
        ours = (await registry.tenants.create(NAME, by=OPERATOR)).id
        filled = Filled(directory=directory / "blobs", store=store, registry=registry, ours=ours, theirs=ours)
        await fill(filled, ours)
        run = replace(submitted(), question=BAIT)
        await Journal(store, filled.blobs_of(ours), ours).open_run(run)
        if forbidden:
            await store.write("ACL", "SETUSER", "default", *(f"-{command}" for command in forbidden))
        erased = await filled.erasure().erase(ours, by=OPERATOR)
    return erased.is_off_the_log, files_with_bait(directory)


def files_with_bait(directory: Path) -> list[Path]:
    contents = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return [path for path, content in contents.items() if BAIT.encode() in content or NAME.encode() in content]


async def test_what_is_erased_is_in_no_file_any_more(tmp_path: Path) -> None:
    """The store's append-only file is written anew before a tenant counts as erased, and has its name no more."""
    assert await erased_alone(tmp_path) == (True, [])


async def test_a_log_that_cannot_be_rewritten_is_told(tmp_path: Path) -> None:
    """Where the server does not let it be, the tenant is erased all the same and the operator learns what is left."""
    is_off_the_log, files = await erased_alone(tmp_path, "bgrewriteaof")
    assert not is_off_the_log
    assert files


async def test_broken_off_at_any_request_it_is_finished_by_asking_again(
    filled: Filled,
    store_directory: Path,  # noqa: F811
) -> None:
    """Whichever request to the store was its last, a second call erases what is left, and the figures are right."""
    allowance = Allowance()
    async with open_store(data_directory=store_directory, redis_url=None, over=partial(Dying, allowance)) as mortal:
        requests = 0
        while True:
            victim = replace(filled, store=mortal, registry=registry_over(mortal))
            allowance.requests_left = requests
            try:
                await victim.erasure().erase(filled.ours, by=OPERATOR)
            except StoreFailed:
                requests += 1
            else:
                break
            if requests % 3 == 0:
                await filled.erasure().erase(filled.ours, by=OPERATOR)
                await check_erased(filled)
                ours = (await filled.registry.tenants.create("ours", by=OPERATOR)).id
                filled = replace(filled, ours=ours)
                await fill(filled, ours)
    assert requests > 10
    await check_erased(filled)


async def test_a_live_run_is_stopped_however_many_wait_beside_it(filled: Filled) -> None:
    """It is told to cancel and waited for, behind as many queued runs as no page of the journal holds; those have
    nobody to wait for."""
    journal = Journal(filled.store, filled.blobs_of(filled.ours), filled.ours)
    for _ in range(PAGE + 10):
        await journal.open_run(submitted())
    live = submitted()
    await journal.open_run(live, keeper="rep_1", for_s=600)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(filled.erasure().erase, filled.ours, by=OPERATOR, stop_within_s=600))
        with anyio.fail_after(60):
            await journal.wait_for_cancel(live.run_id)
        assert await journal.exists(live.run_id)
        await journal.append(live.run_id, 1, finished())
    assert (await filled.erasure().figures())[filled.ours].runs == PAGE + 13
    assert await filled.kept_of(filled.ours) == {}


@asynccontextmanager
async def finishing(filled: Filled, replica: str) -> AsyncIterator[None]:
    """A replica that carries erasures out, until it is killed at the end of the block."""
    async with anyio.create_task_group() as tasks:
        lease = SoleLease(filled.store, f"rlm:erasures:{filled.ours}", replica)
        tasks.start_soon(keep_finishing, filled.erasure(), lease, filled.store.listen(ERASURES))
        yield
        tasks.cancel_scope.cancel()


async def until_erased(erasure: Erasure, tenant: TenantId) -> ErasureStanding:
    with anyio.fail_after(60):
        while True:
            standing = await erasure.standing(tenant)
            if standing.has_ended:
                return standing
            await anyio.sleep(0.02)


async def test_an_erasure_that_was_asked_for_is_carried_out_by_whoever_looks(filled: Filled) -> None:
    """At once where somebody looks, else by the next one; it tells how far it is, and what was kept when it has ended.
    To ask again changes nothing, before and after."""
    erasure = filled.erasure()
    with pytest.raises(NotFound):
        await erasure.standing(filled.ours)
    begun = await erasure.begin(filled.ours, by=OPERATOR)
    assert (begun.began_at, begun.figures, begun.has_ended) == (AT, None, False)
    assert await erasure.begin(filled.ours, by=OPERATOR) == begun
    assert filled.ours in await erasure.unfinished()
    async with finishing(filled, "rep_1"):
        ended = await until_erased(erasure, filled.ours)
        assert ended.figures is not None
        assert (ended.figures.erased_at, ended.figures.runs) == (AT, 2)
        await check_erased(filled)
        assert await erasure.begin(filled.ours, by=OPERATOR) == ended
        await erasure.begin(filled.theirs, by=OPERATOR)
        await until_erased(erasure, filled.theirs)
    log = filled.registry.logs.of(OPERATORS_CHAIN)
    actions, last = list[str](), 0
    while page := await log.page(after=last):
        last = page[-1].number
        actions += [record.deed.action for record in page if record.deed.target == filled.ours]
    assert actions == ["tenant.created", "tenant.erasure_began", "tenant.erased"]
    with pytest.raises(NotFound):
        await erasure.begin(TenantId(new_id("ten")), by=OPERATOR)
