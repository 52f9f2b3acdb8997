"""`/v1/webhooks/{webhook_id}/deliveries`: what was sent, what came of it, and sending it again."""

from typing import Annotated

from fastapi import Query

from service.ids import DeliveryId
from service.tenants.values import Scope
from service.web.doors import open_router
from service.web.paging import cursor_after, id_behind
from service.web.paths import DeliveryIdInPath, WebhookIdInPath
from service.web.shapes import MAX_CURSOR_CHARS
from service.web.webhooks.shapes import DeliveryPage, ShownDelivery, shown_delivery
from service.web.webhooks.uses import DeliveriesOfCaller, WebhooksOfCaller

router = open_router(Scope.WEBHOOKS, tag="webhooks")


@router.get("/v1/webhooks/{webhook_id}/deliveries", summary="List deliveries")
async def list_deliveries(
    webhook_id: WebhookIdInPath,
    webhooks: WebhooksOfCaller,
    deliveries: DeliveriesOfCaller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> DeliveryPage:
    """Of what was sent there, or will be."""
    before = None if cursor is None else DeliveryId(id_behind(cursor, "dlv"))
    await webhooks.get(webhook_id)
    found = await deliveries.page(webhook_id, before=before, limit=limit + 1)
    more = len(found) > limit
    return DeliveryPage(
        deliveries=[shown_delivery(delivery) for delivery in found[:limit]],
        next_cursor=cursor_after(found[limit - 1].id) if more else None,
    )


@router.get("/v1/webhooks/{webhook_id}/deliveries/{delivery_id}", summary="Show a delivery")
async def show(
    webhook_id: WebhookIdInPath,
    delivery_id: DeliveryIdInPath,
    webhooks: WebhooksOfCaller,
    deliveries: DeliveriesOfCaller,
) -> ShownDelivery:
    """With its attempts and how each ended."""
    await webhooks.get(webhook_id)
    return shown_delivery(await deliveries.get(webhook_id, delivery_id))


@router.post(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, summary="Deliver once more"
)
async def redeliver(
    webhook_id: WebhookIdInPath,
    delivery_id: DeliveryIdInPath,
    webhooks: WebhooksOfCaller,
    deliveries: DeliveriesOfCaller,
) -> ShownDelivery:
    """The same bytes under the same `webhook-id`, at once, and with all its attempts anew if that fails."""
    await webhooks.get(webhook_id)
    return shown_delivery(await deliveries.redeliver(webhook_id, delivery_id))
