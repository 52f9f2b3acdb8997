"""Erasing a tenant while others still work for it: what they write then is nowhere."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.contexts.open_contexts import OpenContexts
from service.contexts.redis_contexts import Contexts
from service.contexts.upload_values import UploadPlan
from service.contexts.uploads import Uploads
from service.errors import BadRequest
from service.ids import EMBEDDED_TENANT, CellId, RunId, SessionId, TenantId, new_id
from service.journal.cell_log import CellLog
from service.journal.ended import EndedRuns
from service.journal.redis_journal import Journal
from service.journal.requests import Requests
from service.journal.sessions import Sessions
from service.journal.tenants_at_work import tenants_with_runs
from service.journal.values import CellRecord, SessionRecord
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Account, Level, Unit
from service.loop.values import ContextBinding
from service.models.port import ModelReply, ModelRequest
from service.runs.erasure.erasure import Erasure
from service.runs.values import RunRequest
from service.store.erasing import erase_keys, tombstone
from service.store.errors import TenantErased
from service.store.keys import Keys
from service.tenants.audit import deed
from service.tenants.key_files import KeyFile
from service.tenants.quotas import Counted
from service.tenants.registry import open_registry
from service.tenants.values import NO_LIMITS, OPERATOR
from service.tenants.values import Level as TenantLevel
from service.wiring.blobs import open_blobs
from tests.journal.runs import submitted
from tests.runs.doubles import echo
from tests.runs.playing import ROOT, SUB, repl, stage
from tests.store_fixture import Stored
from tests.stored_files import put_path

pytestmark = pytest.mark.anyio

AT = 1_800_000_000.0


async def at() -> float:
    return AT


async def test_a_run_in_flight_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its tenant is erased while a model is being asked for it: the run ends, and no key of the tenant is there."""
    is_asked, may_answer = anyio.Event(), anyio.Event()

    async def late(request: ModelRequest) -> ModelReply:
        is_asked.set()
        with anyio.CancelScope(shield=True):  # a provider that answers whatever happens to the asker
            await may_answer.wait()
        return await echo(request)

    async with stage(tmp_path, repl("x = llm_query('hello')\nprint(x)"), repl("FINAL('done')"), sub=late) as on:
        service = on.service
        tenant = (await service.registry.tenants.create("ours", by=OPERATOR)).id
        runs = service.tenancy.runs_of(tenant)
        path = tmp_path / "notes.txt"
        path.write_text("notes")
        context = await put_path(runs.rooms.contexts, path)
        bound = (ContextBinding(context_id=context.context_id),)
        run_id = await runs.submit(RunRequest(question="?", contexts=bound, root_model=ROOT, sub_model=SUB))
        runs.start(run_id)
        with anyio.fail_after(60):
            await is_asked.wait()
            erasure = Erasure(service.store, service.registry, partial(open_blobs, service.settings), time.time)
            async with anyio.create_task_group() as group:
                group.start_soon(partial(erasure.erase, tenant, by=OPERATOR, stop_within_s=0.0))
            may_answer.set()
            while runs.live:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert await service.store.read("KEYS", Keys(tenant)("*")) == []
        assert tenant not in await tenants_with_runs(service.store)
    assert not (tmp_path / "data" / "blobs" / "tenants" / tenant).exists()


def writes(stored: Stored) -> dict[str, Callable[[], Awaitable[object]]]:
    """Everything that leaves something behind for a tenant that had nothing before."""
    store, blobs, tenant = stored.store, stored.blobs, stored.tenant
    registry = open_registry(
        store, pepper=KeyFile(b"pepper"), vault=KeyFile(b"vault"), now=lambda: AT, is_provider=lambda name: True
    )
    contexts = Contexts(store, blobs, tenant)
    levels = (TenantLevel(kind="tenant", owner=tenant, limits=NO_LIMITS),)

    async def no_uncount(name: str) -> None:
        """Nothing is counted here."""

    uploads = Uploads(store, blobs, tenant, contexts, uncount=no_uncount, now=at)
    sessions = Sessions(store, tenant)
    session = SessionRecord(session_id=SessionId(new_id("ses")), created_at=AT, random_seed=1)
    cell = CellRecord(cell_id=CellId("c"), run_id=None, kind="cell", code="1")
    account = Account(level=Level.RUN, owner="run_a")
    return {
        "a run": lambda: Journal(store, blobs, tenant).open_run(submitted()),
        "a session": lambda: sessions.create(session),
        "a cell": lambda: CellLog(store, blobs, tenant).append(session.session_id, cell),
        "a request": lambda: Requests(store, tenant, at).claim(
            sender="s", route="r", key="k", body_sha256="b", target="t"
        ),
        "a context": lambda: put_path(contexts, Path(__file__)),
        "an open context": lambda: OpenContexts(store, tenant, contexts).open("name"),
        "an upload": lambda: uploads.open(UploadPlan(name="n", kind="text", size_bytes=1)),
        "a limit": lambda: Ledger(store, tenant, lambda: AT).set_limit(account, Unit.NANO_USD, 5),
        "an ended run": lambda: EndedRuns(store, tenant).put_off([RunId(new_id("run"))]),
        "bytes": lambda: registry.storage_of(tenant).hold("ctx_a", {"d": 1}, levels),
        "a place": lambda: registry.quotas_of(tenant).acquire(Counted.OPEN_CONTEXTS, "ctx_a", levels, for_s=None),
        "a deed": lambda: registry.logs.of(tenant).record(deed("test.done", tenant, OPERATOR)),
        "a provider's key": lambda: registry.provider_keys_of(tenant).put("openai", "sk-bait-0123456789", by=OPERATOR),
    }


WRITES = (
    *("a run", "a session", "a cell", "a request", "a context", "an open context", "an upload", "a limit"),
    *("an ended run", "bytes", "a place", "a deed", "a provider's key"),
)


@pytest.mark.parametrize("what", WRITES)
async def test_nothing_can_be_left_behind_for_an_erased_tenant(stored: Stored, what: str) -> None:
    """What works before is refused afterwards, and leaves no key; another tenant is not concerned."""
    write = writes(stored)[what]
    await write()
    await erase_keys(stored.store, stored.tenant)
    assert await stored.store.read("KEYS", Keys(stored.tenant)("*")) == []
    with pytest.raises(TenantErased):
        await writes(stored)[what]()
    assert await stored.store.read("KEYS", Keys(stored.tenant)("*")) == []
    assert stored.tenant not in await tenants_with_runs(stored.store)
    other = Stored(store=stored.store, blobs=stored.blobs, tenant=TenantId(new_id("ten")))
    await writes(other)[what]()


async def test_what_is_noted_beside_a_run_goes_with_it(stored: Stored) -> None:
    """Listeners, summaries, how it was asked for and cancellations that come after a run was forgotten leave no key."""
    journal = Journal(stored.store, stored.blobs, stored.tenant)
    run = submitted()
    await journal.open_run(run)

    async def note() -> None:
        await journal.keep_summary(run.run_id, b"s")
        await journal.note_listener(run.run_id, "replica")
        await journal.keep_asked(run.run_id, b"a")

    await note()
    assert await journal.last_listener(run.run_id) == "replica"
    assert await journal.asked(run.run_id) == b"a"
    await journal.forget(run.run_id)
    await note()
    assert await journal.asked(run.run_id) is None
    assert await stored.store.read("KEYS", Keys(stored.tenant)("run", "*")) == []


async def test_the_default_tenant_has_no_tombstone(stored: Stored) -> None:
    """It cannot be erased, by this way either."""
    with pytest.raises(BadRequest, match="delete its data directory and its store"):
        await erase_keys(stored.store, EMBEDDED_TENANT)
    assert await stored.store.read("EXISTS", tombstone(EMBEDDED_TENANT)) == 0
