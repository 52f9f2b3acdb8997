"""Holds that nobody came back to, of all tenants of a replica."""

from pathlib import Path

import anyio
import pytest

from service.ids import TenantId
from service.journal.redis_journal import Journal
from service.ledger.redis_ledger import Ledger
from service.ledger.values import Unfinished
from service.runs.calls.expiry import keep_settling
from service.store.blobs import Blobs
from service.store.connection import open_store
from service.store.errors import StoreFailed

pytestmark = pytest.mark.anyio


class Failing(Ledger):
    """A ledger whose store refuses it."""

    async def settle_expired(self, now: float, *, unfinished: Unfinished) -> int:
        raise StoreFailed("the store is away")


class Asked(Ledger):
    """A ledger that tells when it is asked."""

    async def settle_expired(self, now: float, *, unfinished: Unfinished) -> int:
        self.asked.set()
        return await super().settle_expired(now, unfinished=unfinished)

    asked: anyio.Event


async def test_a_ledger_that_fails_keeps_no_other_from_being_settled(tmp_path: Path) -> None:
    """The tenants behind it have their turn in the same round."""
    async with open_store(data_directory=tmp_path, redis_url=None) as store:
        behind = Asked(store, TenantId("behind"), lambda: 0.0)
        behind.asked = anyio.Event()
        journal = Journal(store, Blobs(tmp_path / "blobs"), TenantId("behind"))
        before = Failing(store, TenantId("before"), lambda: 0.0)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_settling, lambda: [(before, journal), (behind, journal)], store.now)
                await behind.asked.wait()
                tasks.cancel_scope.cancel()
