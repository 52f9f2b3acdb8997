"""What the tenants' room knows of one tenant, for whoever begins something for it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.ids import KeyId, TenantId
from service.tenants.quotas import Quotas
from service.tenants.rates import Rates
from service.tenants.values import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRules:
    """One value instead of a handful of parameters; it decides nothing."""

    tenant: TenantId
    require_active: Callable[[], Awaitable[None]]
    """Raises `TenantSuspended` when the tenant may not spend."""
    levels_of: Callable[[Sequence[KeyId]], Awaitable[tuple[Level, ...]]]
    """The levels at which a key's work counts now: the tenant, then the keys in the order given (nearest first)."""
    quotas: Quotas
    rates: Rates
