"""The registry: all of this room over one store, with the installation's secrets."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.ids import TenantId
from service.store.connection import Store
from service.tenants.api_keys import ApiKeys
from service.tenants.audit import AuditLogs
from service.tenants.current_levels import CurrentLevels
from service.tenants.key_files import KeyFile
from service.tenants.provider_keys import ProviderKeys
from service.tenants.quotas import Quotas
from service.tenants.rates import Rates
from service.tenants.storage import Storage
from service.tenants.suspensions import Suspensions
from service.tenants.tenants import Tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """One for each replica. What is one tenant's is made when it is asked for, and holds nothing open."""

    store: Store
    vault: KeyFile = field(repr=False)
    now: Callable[[], float]
    logs: AuditLogs
    tenants: Tenants
    api_keys: ApiKeys
    suspensions: Suspensions
    levels: CurrentLevels
    is_provider: Callable[[str], bool]
    """By which names of providers keys are looked for; `models` knows."""

    def provider_keys_of(self, tenant: TenantId) -> ProviderKeys:
        return ProviderKeys(
            self.store, self.vault, self.logs.of(tenant), tenant, self.now, is_provider=self.is_provider
        )

    def rates_of(self, tenant: TenantId) -> Rates:
        return Rates(self.store, tenant, self.now)

    def quotas_of(self, tenant: TenantId) -> Quotas:
        return Quotas(self.store, tenant, self.store.now)

    def storage_of(self, tenant: TenantId) -> Storage:
        return Storage(self.store, tenant)


def open_registry(
    store: Store, *, pepper: KeyFile, vault: KeyFile, now: Callable[[], float], is_provider: Callable[[str], bool]
) -> Registry:
    """Nothing is read or written yet."""
    logs = AuditLogs(store, pepper, now)
    return Registry(
        store=store,
        vault=vault,
        now=now,
        logs=logs,
        tenants=Tenants(store, logs, now),
        api_keys=ApiKeys(store, pepper, logs, now),
        suspensions=Suspensions(store, now),
        levels=CurrentLevels(store, now),
        is_provider=is_provider,
    )
