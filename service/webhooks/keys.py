"""Where webhooks and deliveries of a tenant stand in the store.

Under the tenant's tag: `webhook:{id}` a hash (`record`, `dropped`), `webhooks` ids by birth, `webhook:{id}:deliveries`
ids by birth, `delivery:{id}` a hash (`record`), `deliveries:due` ids by the time at which they are to be tried, or
until which somebody who tries them has them. Under no tenant's tag: the tenants that have, or had, webhooks.
"""

from dataclasses import dataclass

from service.ids import DeliveryId, TenantId, WebhookId
from service.journal.ended import ended_key, watched_key
from service.store.keys import Keys

TENANTS = "rlm:tenants_with_webhooks"


@dataclass(frozen=True, slots=True)
class WebhookKeys:
    """Those of one tenant."""

    keys: Keys

    @classmethod
    def of(cls, tenant: TenantId) -> "WebhookKeys":
        return cls(Keys(tenant))

    @property
    def index(self) -> str:
        return self.keys("webhooks")

    @property
    def watched(self) -> str:
        return watched_key(self.keys.tenant)

    @property
    def ended(self) -> str:
        return ended_key(self.keys.tenant)

    @property
    def due(self) -> str:
        return self.keys("deliveries", "due")

    def webhook(self, webhook: WebhookId) -> str:
        return self.keys("webhook", webhook)

    def deliveries(self, webhook: WebhookId) -> str:
        return self.keys("webhook", webhook, "deliveries")

    def delivery(self, delivery: DeliveryId | str) -> str:
        """Of no delivery: what the keys of all begin with."""
        return self.keys("delivery", delivery)
