"""Whether a tenant may go on spending. Asked before every model call and before a run is given its turn."""

from collections.abc import Callable, Sequence

from service.ids import EMBEDDED_TENANT, TenantId
from service.store.batching import Batch
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
        self._lookups: Batch[TenantId, bool] = Batch(self._look_up)
        """The calls of a batch all ask at once: the first looks, the others find what it found."""

    async def require_active(self, tenant_id: TenantId) -> None:
        """Refuse a tenant that is suspended, being erased or gone.

        The tenant `default` may act before it is recorded: the command line asks for it on a store that nobody served.

        Raises:
            TenantSuspended: no model call may be made and no run started; what is in flight may end.
            StoreFailed: nobody can tell, so nothing may be spent.
        """
        may_act = self._recent.get(tenant_id)
        if may_act is None:
            may_act = await self._lookups.put(tenant_id)
        if not may_act:
            raise TenantSuspended(f"the tenant {tenant_id} is suspended: ask the operator of this service")

    async def _look_up(self, tenant_ids: Sequence[TenantId]) -> list[bool]:
        remembered = {each: self._recent.get(each) for each in tenant_ids}
        unknown = [each for each, may_act in remembered.items() if may_act is None]
        if unknown:
            records = await self._store.read_many([("HGET", tenant_key(each), "record") for each in unknown])
            for tenant_id, record in zip(unknown, records, strict=True):
                is_embedded = tenant_id == EMBEDDED_TENANT
                may_act = parse_tenant(record).may_act if isinstance(record, bytes) else is_embedded
                remembered[tenant_id] = may_act
                self._recent.put(tenant_id, may_act)
        return [bool(remembered[each]) for each in tenant_ids]
