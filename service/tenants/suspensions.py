"""Whether a tenant may go on spending. Asked before every model call and before a run is given its turn."""

from collections.abc import Callable

from service.ids import EMBEDDED_TENANT, TenantId
from service.store.connection import Store
from service.tenants.errors import TenantSuspended
from service.tenants.recent import Recent
from service.tenants.records import tenant_key
from service.tenants.tenants import parse_tenant

REMEMBERED_S = 1.0
"""How long a replica goes on believing that a tenant may spend: what a suspension takes to stop it."""
REMEMBERED_TENANTS = 10_000


class Suspensions:
    """Cheap enough for every call: a tenant is looked up once in `REMEMBERED_S`."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._recent: Recent[TenantId, bool] = Recent(REMEMBERED_TENANTS, REMEMBERED_S, now)

    async def require_active(self, tenant_id: TenantId) -> None:
        """Refuse a tenant that is suspended, being erased or gone.

        The tenant `default` may act before it is recorded: the command line asks for it on a store that nobody served.

        Raises:
            TenantSuspended: no model call may be made and no run started; what is in flight may end.
            StoreFailed: nobody can tell, so nothing may be spent.
        """
        may_act = self._recent.get(tenant_id)
        if may_act is None:
            record = await self._store.read("HGET", tenant_key(tenant_id), "record")
            may_act = parse_tenant(record).may_act if isinstance(record, bytes) else tenant_id == EMBEDDED_TENANT
            self._recent.put(tenant_id, may_act)
        if not may_act:
            raise TenantSuspended(f"the tenant {tenant_id} is suspended: ask the operator of this service")
