"""What follows an attempt."""

from dataclasses import replace

from service.ids import DeliveryId, KeyId, WebhookId
from service.webhooks.schedule import DELAYS_S, GIVEN_UP_AFTER_S, JITTER, after_attempt, health_after
from service.webhooks.values import Attempt, Delivery, DeliveryState, Disabled, EventType, Outcome, Webhook

WEBHOOK = Webhook(
    id=WebhookId("whk"), url="", name="", events=(EventType.RUN_FINISHED,), created_at=0.0, by=KeyId("key")
)
DELIVERY = Delivery(
    id=DeliveryId("dlv"), webhook_id=WEBHOOK.id, event=EventType.RUN_FINISHED, body="{}", created_at=0.0
)
FAILED = Attempt(at=100.0, outcome=Outcome.REFUSED, status=500)


def test_a_failed_delivery_comes_again_ten_times() -> None:
    """Later each time, within the jitter, and then no more."""
    delivery, waits = DELIVERY, []
    for number in range(len(DELAYS_S)):
        delivery = after_attempt(delivery, FAILED, luck=number % 2)
        assert delivery.next_attempt_at is not None
        waits.append((delivery.next_attempt_at - FAILED.at) / DELAYS_S[number])
    assert {round(wait, 6) for wait in waits} == {1 - JITTER, 1 + JITTER}
    last = after_attempt(delivery, FAILED, luck=0.5)
    assert (last.state, last.next_attempt_at, len(last.attempts)) == (DeliveryState.FAILED, None, 10)


def test_what_was_taken_or_is_gone_does_not_come_again() -> None:
    """2xx delivers; 410, and a delivery that was not sent, fail at once."""
    taken = after_attempt(DELIVERY, Attempt(at=1.0, outcome=Outcome.DELIVERED, status=204), luck=0)
    assert (taken.state, taken.next_attempt_at) == (DeliveryState.DELIVERED, None)
    for attempt in (replace(FAILED, status=410), Attempt(at=1.0, outcome=Outcome.NOT_SENT)):
        assert after_attempt(DELIVERY, attempt, luck=0).state is DeliveryState.FAILED


def test_a_webhook_that_fails_for_days_is_given_up() -> None:
    """From its first failure since a success; a success begins anew, and a delivery that was not sent says nothing."""
    failing = health_after(WEBHOOK, FAILED)
    assert (failing.failing_since, failing.disabled) == (100.0, None)
    late = replace(FAILED, at=FAILED.at + GIVEN_UP_AFTER_S)
    assert health_after(failing, late).disabled is Disabled.FAILING
    assert health_after(failing, replace(late, outcome=Outcome.NOT_SENT)) == failing
    healthy = health_after(failing, replace(late, outcome=Outcome.DELIVERED, status=200))
    assert health_after(healthy, late).disabled is None
    assert health_after(WEBHOOK, replace(FAILED, status=410)).disabled is Disabled.GONE
