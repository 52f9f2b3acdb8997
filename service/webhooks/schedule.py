"""What follows an attempt: again, never again, or never again to this webhook. Pure."""

from dataclasses import replace

from service.webhooks.values import Attempt, Delivery, DeliveryState, Disabled, Outcome, Webhook

DELAYS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Between attempts, as Standard Webhooks recommends: ten attempts within some three days."""
JITTER = 0.2
"""So that what failed together does not come back together."""
GIVEN_UP_AFTER_S = 5 * 86_400.0
"""Without any success for this long, a webhook is disabled."""
GONE = 410


def after_attempt(delivery: Delivery, attempt: Attempt, luck: float) -> Delivery:
    """The delivery after one more attempt. `luck` is between 0 and 1."""
    attempts = (*delivery.attempts, attempt)
    if attempt.outcome is Outcome.DELIVERED:
        return replace(delivery, state=DeliveryState.DELIVERED, attempts=attempts, next_attempt_at=None)
    is_over = attempt.status == GONE or attempt.outcome is Outcome.NOT_SENT or len(attempts) > len(DELAYS_S)
    if is_over:
        return replace(delivery, state=DeliveryState.FAILED, attempts=attempts, next_attempt_at=None)
    delay_s = DELAYS_S[len(attempts) - 1] * (1 + JITTER * (2 * luck - 1))
    return replace(delivery, attempts=attempts, next_attempt_at=attempt.at + delay_s)


def health_after(webhook: Webhook, attempt: Attempt) -> Webhook:
    """The webhook after an attempt: a success clears what failed before it, days of failure disable it."""
    if attempt.outcome is Outcome.NOT_SENT:
        return webhook
    if attempt.outcome is Outcome.DELIVERED:
        return replace(webhook, failing_since=None)
    if attempt.status == GONE:
        return replace(webhook, disabled=webhook.disabled or Disabled.GONE)
    since = attempt.at if webhook.failing_since is None else webhook.failing_since
    is_given_up = attempt.at - since >= GIVEN_UP_AFTER_S
    disabled = webhook.disabled or (Disabled.FAILING if is_given_up else None)
    return replace(webhook, failing_since=since, disabled=disabled)
