"""What whoever works with webhooks is given."""

from collections.abc import Callable
from dataclasses import dataclass

from service.ids import DeliveryId, TenantId, new_id
from service.store.connection import Store
from service.tenants.registry import Registry
from service.webhooks.deliveries import Deliveries
from service.webhooks.targets import TargetRules
from service.webhooks.values import Delivery, EventType, Webhook, body_of
from service.webhooks.webhooks import Webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRooms:
    """All tenants' webhooks, over one store. What is one tenant's is made when it is asked for."""

    store: Store
    registry: Registry
    rules: TargetRules
    now: Callable[[], float]

    def webhooks_of(self, tenant: TenantId) -> Webhooks:
        return Webhooks(self.store, self.registry, self.rules, tenant, self.now)

    def deliveries_of(self, tenant: TenantId) -> Deliveries:
        return Deliveries(self.store, tenant, self.now)

    async def test(self, tenant: TenantId, webhook: Webhook) -> Delivery:
        """Deliver a `webhook.test` to it, at once.

        Raises:
            NotFound: it is gone.
        """
        at, identity = self.now(), DeliveryId(new_id("dlv"))
        body = body_of(EventType.TEST, at, {"webhook_id": webhook.id})
        delivery = Delivery(id=identity, webhook_id=webhook.id, event=EventType.TEST, body=body, created_at=at)
        await self.deliveries_of(tenant).add(delivery)
        return await self.deliveries_of(tenant).get(webhook.id, identity)
