"""What webhooks and deliveries look like on their way in and out."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from service.web.shapes import Shape, Shown, example
from service.webhooks.targets import LONGEST_URL
from service.webhooks.values import Attempt, Delivery, DeliveryState, Disabled, EventType, Outcome, Webhook
from service.webhooks.webhooks import MAX_NAME_CHARS, IssuedWebhook, WebhookChange

Url = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_URL)]
Name = Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)]
Wanted = Literal["run.finished"]
Events = Annotated[list[Wanted], Field(fail_fast=True, min_length=1, max_length=8)]

EXAMPLE_OF_WEBHOOK: dict[str, Any] = {
    "webhook_id": "whk_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "url": "https://example.com/hooks/rlm",
    "name": "ticket system",
    "events": ["run.finished"],
    "is_enabled": True,
    "disabled": None,
    "failing_since": None,
    "created_at": 1763640000.0,
    "by": "key_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
}
EXAMPLE_OF_DELIVERY: dict[str, Any] = {
    "delivery_id": "dlv_5d1c3f6b0a9e8d7c6b5a49382716f5e4",
    "webhook_id": "whk_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "event": "run.finished",
    "state": "pending",
    "created_at": 1763640000.0,
    "next_attempt_at": 1763640005.4,
    "attempts": [{"at": 1763640000.1, "outcome": "refused", "status": 503, "duration_s": 0.211}],
    "body": '{"type":"run.finished","timestamp":"2025-11-20T12:00:00.000Z","data":{"run_id":"run_0198…"}}',
}


class GivenWebhook(Shape):
    """A webhook to be made."""

    model_config = example(
        {"url": "https://example.com/hooks/rlm", "name": "ticket system", "events": ["run.finished"]}
    )

    url: Url = Field(description="https, and a public address, unless the operator allows others.")
    name: Name = Field(default="", description="For people.")
    events: Events = Field(default=["run.finished"])

    @property
    def wanted(self) -> tuple[EventType, ...]:
        return _event_types(self.events)


class GivenChange(Shape):
    """What is to be different about a webhook. What is left out, or null, stays."""

    model_config = example({"is_enabled": True})

    url: Url | None = None
    name: Name | None = None
    events: Events | None = None
    is_enabled: bool | None = Field(default=None, description="True also forgets for how long it has been failing.")

    def change(self) -> WebhookChange:
        events = None if self.events is None else _event_types(self.events)
        return WebhookChange(url=self.url, name=self.name, events=events, is_enabled=self.is_enabled)


def _event_types(events: list[Wanted]) -> tuple[EventType, ...]:
    return tuple(EventType(each) for each in dict.fromkeys(events))


class ShownWebhook(Shown):
    """Where the tenant wants to be told."""

    model_config = example(EXAMPLE_OF_WEBHOOK)

    webhook_id: str
    url: str
    name: str
    events: list[EventType]
    is_enabled: bool
    disabled: Disabled | None = Field(description="Why nothing is delivered to it.")
    failing_since: float | None = Field(description="The first failed attempt since the last that succeeded.")
    created_at: float
    by: str = Field(description="The API key that made it, with which it ends.")


class ShownIssuedWebhook(ShownWebhook):
    """A webhook with the secret that its requests are signed with, which is shown this once."""

    model_config = example(EXAMPLE_OF_WEBHOOK | {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})

    secret: str


class ShownWebhookAlone(ShownWebhook):
    """A webhook, and how many events it missed."""

    model_config = example(EXAMPLE_OF_WEBHOOK | {"dropped_events": 0})

    dropped_events: int = Field(description="That found no room among the deliveries that wait.")


class WebhookList(Shown):
    """The tenant's webhooks, the oldest first; there are at most 20."""

    model_config = example({"webhooks": [EXAMPLE_OF_WEBHOOK]})

    webhooks: list[ShownWebhook]


class ShownAttempt(Shown):
    """One try at delivering."""

    at: float
    outcome: Outcome
    status: int | None = Field(description="Of the response, where there was one.")
    duration_s: float


class ShownDelivery(Shown):
    """One event for one webhook."""

    model_config = example(EXAMPLE_OF_DELIVERY)

    delivery_id: str = Field(description="The header `webhook-id` of every attempt.")
    webhook_id: str
    event: EventType
    state: DeliveryState
    created_at: float
    next_attempt_at: float | None
    attempts: list[ShownAttempt]
    body: str = Field(description="As it is sent, byte for byte.")


class DeliveryPage(Shown):
    """Deliveries, the newest first. They are remembered for seven days, and at most 1000 of a webhook."""

    model_config = example({"deliveries": [EXAMPLE_OF_DELIVERY], "next_cursor": None})

    deliveries: list[ShownDelivery]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


def shown_webhook(webhook: Webhook) -> ShownWebhook:
    return ShownWebhook.model_validate(_facts(webhook))


def shown_issued_webhook(issued: IssuedWebhook) -> ShownIssuedWebhook:
    return ShownIssuedWebhook.model_validate(_facts(issued.webhook) | {"secret": issued.secret})


def shown_webhook_alone(webhook: Webhook, dropped_events: int) -> ShownWebhookAlone:
    return ShownWebhookAlone.model_validate(_facts(webhook) | {"dropped_events": dropped_events})


def shown_delivery(delivery: Delivery) -> ShownDelivery:
    return ShownDelivery(
        delivery_id=delivery.id,
        webhook_id=delivery.webhook_id,
        event=delivery.event,
        state=delivery.state,
        created_at=delivery.created_at,
        next_attempt_at=delivery.next_attempt_at,
        attempts=[_shown_attempt(attempt) for attempt in delivery.attempts],
        body=delivery.body,
    )


def _shown_attempt(attempt: Attempt) -> ShownAttempt:
    return ShownAttempt(at=attempt.at, outcome=attempt.outcome, status=attempt.status, duration_s=attempt.duration_s)


def _facts(webhook: Webhook) -> dict[str, Any]:
    return {
        "webhook_id": webhook.id,
        "url": webhook.url,
        "name": webhook.name,
        "events": list(webhook.events),
        "is_enabled": webhook.disabled is None,
        "disabled": webhook.disabled,
        "failing_since": webhook.failing_since,
        "created_at": webhook.created_at,
        "by": webhook.by,
    }
