"""`/v1/webhooks`, and `/v1/webhooks/{webhook_id}` as a thing."""

from fastapi import Response

from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.paths import WebhookIdInPath
from service.web.webhooks.shapes import (
    GivenChange,
    GivenWebhook,
    ShownDelivery,
    ShownIssuedWebhook,
    ShownWebhook,
    ShownWebhookAlone,
    WebhookList,
    shown_delivery,
    shown_issued_webhook,
    shown_webhook,
    shown_webhook_alone,
)
from service.web.webhooks.uses import WebhooksOfCaller

router = open_router(Scope.WEBHOOKS, tag="webhooks")


@router.post("/v1/webhooks", status_code=201, summary="Make a webhook")
async def create(
    given: GivenWebhook, caller: CallerOfRequest, webhooks: WebhooksOfCaller, response: Response
) -> ShownIssuedWebhook:
    """The secret is shown in this response and never again. Needs a key that no other key made, and ends with it."""
    issued = await webhooks.create(given.url, name=given.name, events=given.wanted, by=caller)
    response.headers["location"] = f"/v1/webhooks/{issued.webhook.id}"
    return shown_issued_webhook(issued)


@router.get("/v1/webhooks", summary="List webhooks")
async def list_webhooks(webhooks: WebhooksOfCaller) -> WebhookList:
    """Where the tenant is told of its runs; never their secrets."""
    return WebhookList(webhooks=[shown_webhook(webhook) for webhook in await webhooks.list()])


@router.get("/v1/webhooks/{webhook_id}", summary="Show a webhook")
async def show(webhook_id: WebhookIdInPath, webhooks: WebhooksOfCaller) -> ShownWebhookAlone:
    """Never its secret."""
    return shown_webhook_alone(await webhooks.get(webhook_id), await webhooks.dropped(webhook_id))


@router.patch("/v1/webhooks/{webhook_id}", summary="Change a webhook")
async def change(
    webhook_id: WebhookIdInPath, given: GivenChange, caller: CallerOfRequest, webhooks: WebhooksOfCaller
) -> ShownWebhook:
    """What waits is delivered to the URL that it has by then."""
    return shown_webhook(await webhooks.change(webhook_id, given.change(), by=caller))


@router.post("/v1/webhooks/{webhook_id}/rotate", summary="Give a webhook a new secret")
async def rotate(
    webhook_id: WebhookIdInPath, caller: CallerOfRequest, webhooks: WebhooksOfCaller
) -> ShownIssuedWebhook:
    """For a day requests are signed with the secret before as well."""
    return shown_issued_webhook(await webhooks.rotate(webhook_id, by=caller))


@router.post("/v1/webhooks/{webhook_id}/test", status_code=202, summary="Send a webhook a test")
async def test(
    webhook_id: WebhookIdInPath, caller: CallerOfRequest, webhooks: WebhooksOfCaller, rooms: RoomsOfService
) -> ShownDelivery:
    """An event `webhook.test`, delivered like every other; the delivery says what came of it."""
    return shown_delivery(await rooms.webhooks.test(caller.tenant.id, await webhooks.get(webhook_id)))


@router.delete("/v1/webhooks/{webhook_id}", status_code=204, summary="Delete a webhook")
async def delete(webhook_id: WebhookIdInPath, caller: CallerOfRequest, webhooks: WebhooksOfCaller) -> None:
    """With all its deliveries, those that wait among them."""
    await webhooks.delete(webhook_id, by=caller)
