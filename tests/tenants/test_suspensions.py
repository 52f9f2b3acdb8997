"""Whether a tenant may spend, over a real store."""

import anyio
import pytest

from service.ids import EMBEDDED_TENANT, TenantId, new_id
from service.tenants.errors import TenantSuspended
from service.tenants.suspensions import REMEMBERED_S, Suspensions
from service.tenants.values import OPERATOR
from tests.store_fixture import Stored
from tests.tenants.conftest import Rooms

pytestmark = pytest.mark.anyio


async def test_a_suspension_reaches_a_replica_that_just_asked(stored: Stored, rooms: Rooms) -> None:
    """Within `REMEMBERED_S` of a suspension no replica lets the tenant spend, and after its end every one does."""
    suspensions = Suspensions(stored.store, rooms.clock)
    await suspensions.require_active(rooms.tenant.id)
    await rooms.tenants.suspend(rooms.tenant.id, by=OPERATOR)
    rooms.clock.at += REMEMBERED_S
    with pytest.raises(TenantSuspended):
        await suspensions.require_active(rooms.tenant.id)
    await rooms.tenants.resume(rooms.tenant.id, by=OPERATOR)
    rooms.clock.at += REMEMBERED_S
    await suspensions.require_active(rooms.tenant.id)


async def test_a_tenant_that_is_gone_spends_nothing(stored: Stored, rooms: Rooms) -> None:
    """A run whose tenant was erased may not go on; the command line's own tenant may before it is recorded."""
    suspensions = Suspensions(stored.store, rooms.clock)
    with pytest.raises(TenantSuspended):
        await suspensions.require_active(TenantId(new_id("ten")))
    await suspensions.require_active(EMBEDDED_TENANT)


async def test_calls_that_ask_at_once_are_answered_alike(stored: Stored, rooms: Rooms) -> None:
    """Of many calls of two tenants that ask at the same time, those of the suspended one are refused, all of them."""
    suspensions = Suspensions(stored.store, rooms.clock)
    gone = TenantId(new_id("ten"))
    refused: list[TenantId] = []

    async def ask(tenant_id: TenantId) -> None:
        try:
            await suspensions.require_active(tenant_id)
        except TenantSuspended:
            refused.append(tenant_id)

    async with anyio.create_task_group() as group:
        for _ in range(300):
            group.start_soon(ask, gone)
            group.start_soon(ask, rooms.tenant.id)
    assert refused == [gone] * 300
