"""The rooms of one tenant: its own journal, ledger, contexts and sessions, over adapters that all tenants share."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from service.contexts.open_contexts import OpenContexts
from service.contexts.redis_contexts import Contexts
from service.contexts.uploads import Uploads
from service.ids import TenantId
from service.journal.cell_log import CellLog
from service.journal.redis_journal import Journal
from service.journal.requests import Requests
from service.journal.sessions import Sessions
from service.ledger.redis_ledger import Ledger
from service.loop.prompts import PromptPack
from service.loop.values import DivergencePolicy
from service.metrics.replica import ReplicaMetrics
from service.models.catalog import Catalog
from service.runs.calls.health import ProviderHealth
from service.runs.calls.metered_call import MeteredCalls
from service.runs.dispatch.dispatch import Dispatch, Lines
from service.runs.dispatch.tenant_rules import TenantRules
from service.runs.host_calls.grants import Grants
from service.runs.recovery.leases import Leases
from service.runs.rooms import RunsRooms
from service.runs.sessions.bindings import BindsContexts
from service.runs.sessions.open_session import SessionRooms
from service.sandboxes.pool import Pool
from service.sandboxes.port import Provider, Template
from service.sandboxes.slots import Slots
from service.store.blobs import Blobs
from service.store.connection import Store
from service.store.disk_room import DiskRoom
from service.tenants.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRooms:
    """What every tenant's rooms stand on, opened once for each replica."""

    store: Store
    registry: Registry
    blobs_of: Callable[[TenantId], Blobs]
    """Those of one tenant."""
    disk: DiskRoom
    catalog: Catalog
    packs: Mapping[str, PromptPack]
    provider: Provider
    pool: Pool
    template: Template
    slots: Slots
    grants: Grants
    health: ProviderHealth
    lines: Lines
    leases: Leases
    on_divergence: DivergencePolicy
    metrics: ReplicaMetrics

    def of(self, tenant_id: TenantId) -> RunsRooms:
        """The rooms of one tenant. Whatever they keep stands under the tenant's own keys.

        Raises:
            BadRequest: this cannot be a tenant's id.
        """
        blobs = self.blobs_of(tenant_id)
        journal = Journal(self.store, blobs, tenant_id, self.metrics.count_event)
        ledger = Ledger(self.store, tenant_id, time.time)
        contexts = Contexts(self.store, blobs, tenant_id)
        storage, quotas = self.registry.storage_of(tenant_id), self.registry.quotas_of(tenant_id)
        rules = TenantRules(
            tenant=tenant_id,
            require_active=partial(self.registry.suspensions.require_active, tenant_id),
            levels_of=partial(self.registry.levels.of, tenant_id),
            quotas=quotas,
            rates=self.registry.rates_of(tenant_id),
        )
        dispatch = Dispatch(rules, self.lines, ledger, time.time)
        return RunsRooms(
            journal=journal,
            blobs=blobs,
            ledger=ledger,
            dispatch=dispatch,
            metered=MeteredCalls(ledger, time.time, self.health, dispatch, self.disk),
            requests=Requests(self.store, tenant_id, self.store.now),
            now=time.time,
            session=SessionRooms(
                pool=self.pool,
                template=self.template,
                records=Sessions(self.store, tenant_id),
                journal=journal,
                cell_log=CellLog(self.store, blobs, tenant_id),
                blobs=blobs,
                contexts=BindsContexts(contexts),
            ),
            contexts=contexts,
            open_contexts=OpenContexts(self.store, tenant_id, contexts),
            uploads=Uploads(
                self.store,
                blobs,
                tenant_id,
                contexts,
                uncount=storage.drop,
                now=self.store.now,
            ),
            catalog=self.catalog,
            provider_keys=self.registry.provider_keys_of(tenant_id).opened,
            packs=self.packs,
            provider=self.provider,
            slots=self.slots,
            grants=self.grants,
            leases=self.leases,
            quotas=quotas,
            storage=storage,
            on_divergence=self.on_divergence,
        )
