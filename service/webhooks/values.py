"""What a webhook and a delivery are, and what is told of a run. Pure."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from service.ids import DeliveryId, KeyId, WebhookId
from service.runs.values import RunView

MOST_WEBHOOKS = 20
"""Of one tenant."""
MOST_DELIVERIES = 1000
"""Of one webhook: what waits and what is remembered."""
REMEMBERED_S = 7 * 86_400
"""How long a delivery is remembered after it was last tried or asked for."""


class EventType(StrEnum):
    """What a webhook can be told of."""

    RUN_FINISHED = "run.finished"
    TEST = "webhook.test"
    """Sent when somebody asks for it, whatever the webhook wants."""


WANTED = (EventType.RUN_FINISHED,)
"""What a webhook can ask for."""


class Disabled(StrEnum):
    """Why nothing is delivered to a webhook any more, until it is enabled again."""

    BY_TENANT = "by_tenant"
    FAILING = "failing"
    """No delivery succeeded for days."""
    GONE = "gone"
    """The receiver answered 410."""
    KEY_ENDED = "key_ended"
    """The API key that made it, or one above it, has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where a tenant wants to be told. The signing secret is derived, and stands nowhere."""

    id: WebhookId
    url: str
    name: str
    events: tuple[EventType, ...]
    created_at: float
    by: KeyId
    secret_version: int = 1
    previous_secret_until: float = 0.0
    """Until then requests are signed with the version before as well."""
    disabled: Disabled | None = None
    failing_since: float | None = None
    """The first failed attempt since the last success."""

    def wants(self, event: EventType) -> bool:
        return self.disabled is None and event in self.events


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Outcome(StrEnum):
    """What came of one attempt."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """The receiver answered with another status than 2xx; redirects are not followed."""
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    TLS_FAILED = "tls_failed"
    FORBIDDEN_TARGET = "forbidden_target"
    """The name leads to an address that webhooks may not ask."""
    BAD_RESPONSE = "bad_response"
    """What came back is not HTTP."""
    NOT_SENT = "not_sent"
    """The webhook was disabled, or the tenant suspended, when its time came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    at: float
    outcome: Outcome
    status: int | None = None
    """Of the response, where there was one."""
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event for one webhook. Its body is fixed when it is made, so that each attempt sends the same bytes."""

    id: DeliveryId
    webhook_id: WebhookId
    event: EventType
    body: str
    created_at: float
    state: DeliveryState = DeliveryState.PENDING
    attempts: tuple[Attempt, ...] = ()
    """Since it was made or asked for again."""
    next_attempt_at: float | None = field(default=None)


def delivery_id(webhook: WebhookId, event: EventType, subject: str) -> DeliveryId:
    """Always the same one for the same event, so that taking it in twice makes one delivery."""
    digest = hashlib.sha256(f"{webhook}\n{event}\n{subject}".encode()).hexdigest()
    return DeliveryId(f"dlv_{digest[:32]}")


def body_of(event: EventType, at: float, data: dict[str, Any]) -> str:
    """The payload, in the form that Standard Webhooks recommends."""
    timestamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": event, "timestamp": timestamp, "data": data}, separators=(",", ":"))


def facts_of(view: RunView) -> dict[str, Any]:
    """What is told of a run: facts and figures, neither its question nor its answer."""
    return {
        "run_id": view.run_id,
        "session_id": view.session_id,
        "stop_reason": view.stop_reason,
        "answer_source": view.answer_source,
        "answer_size_bytes": None if view.answer is None else view.answer.size_bytes,
        "root_model": view.root_model,
        "submitted_at": view.submitted_at,
        "finished_at": view.finished_at,
        "turns": view.turns,
        "sub_calls": view.sub_calls,
        "spent_nano_usd": view.spent,
    }
