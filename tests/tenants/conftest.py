from dataclasses import dataclass
from pathlib import Path

import pytest

from service.tenants.api_keys import ApiKeys
from service.tenants.audit import AuditLogs
from service.tenants.key_files import KeyFile
from service.tenants.tenants import Tenants
from service.tenants.values import OPERATOR, Tenant
from tests.clock import Clock
from tests.store_fixture import Stored, store_directory, stored  # noqa: F401

PEPPER = KeyFile(b"a pepper for tests, and no secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """One replica's view on a tenant of the test's own."""

    clock: Clock
    logs: AuditLogs
    tenants: Tenants
    keys: ApiKeys
    tenant: Tenant


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def rooms(stored: Stored, clock: Clock) -> Rooms:  # noqa: F811
    logs = AuditLogs(stored.store, PEPPER, clock)
    tenants = Tenants(stored.store, logs, clock)
    return Rooms(
        clock=clock,
        logs=logs,
        tenants=tenants,
        keys=ApiKeys(stored.store, PEPPER, logs, clock),
        tenant=await tenants.create("ours", by=OPERATOR),
    )


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    return directory
