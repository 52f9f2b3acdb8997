"""One embedded store for a whole test session; every test gets a connection and a tenant of its own.

Tests are kept apart by tenants, never by emptying the store. In the `conftest.py` of a room:

    from tests.store_fixture import store_directory, stored  # noqa: F401

and a test takes `stored: Stored`. `open_stored(directory)` is the same for code that brings its own event loop.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio.from_thread import start_blocking_portal

from service.ids import TenantId, new_id
from service.store.blobs import Blobs
from service.store.connection import Store, open_store
from service.store.embedded import embedded_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the rooms that keep something are built from."""

    store: Store
    blobs: Blobs
    tenant: TenantId


@asynccontextmanager
async def open_stored(directory: Path) -> AsyncIterator[Stored]:
    """A connection to the store of the data directory (started if need be) with a fresh tenant and blobs of its own."""
    async with open_store(data_directory=directory, redis_url=None) as store:
        tenant = TenantId(new_id("ten"))
        yield Stored(store=store, blobs=Blobs(directory / "blobs" / tenant), tenant=tenant)


@pytest.fixture(scope="session")
def store_directory() -> Iterator[Path]:
    """A data directory whose server runs for the whole session."""
    with (
        TemporaryDirectory(prefix="rlm-store-") as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(embedded_server(Path(name) / "store")),
    ):
        yield Path(name)


@pytest.fixture
async def stored(store_directory: Path) -> AsyncIterator[Stored]:
    async with open_stored(store_directory) as kept:
        yield kept
