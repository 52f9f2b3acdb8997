"""What is known of the providers, by every call of this replica."""

from dataclasses import dataclass, field

from service.models.breaker import Breakers


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """What the calls of all tenants of this replica have shown of the providers that they share."""

    breakers: Breakers = field(default_factory=Breakers)
    overbilling: set[str] = field(default_factory=set)
    """Models that billed beyond their bound: refused until an operator raises it (a restart re-reads prices)."""

    def shut_s(self, provider: str, now: float) -> float | None:
        """How long the provider is not asked any more; None when it may be."""
        return _until(self.breakers.retry_at(provider, now), now)

    def admit(self, provider: str, now: float) -> float | None:
        """Let a call through to the provider, or say how long not."""
        return _until(self.breakers.admit(provider, now), now)


def _until(retry_at: float | None, now: float) -> float | None:
    return None if retry_at is None else max(retry_at - now, 0.0)
