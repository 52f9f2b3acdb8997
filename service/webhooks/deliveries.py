"""What is to be delivered to a tenant's webhooks, and what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
from pydantic import TypeAdapter, ValidationError

from service.errors import NotFound
from service.ids import DeliveryId, TenantId, WebhookId
from service.journal.ended import ENDED_TOPIC
from service.store.connection import Part, Store
from service.store.errors import RecordUnreadable
from service.store.scripts import load_script
from service.tenants.errors import ChangedMeanwhile
from service.webhooks.keys import WebhookKeys
from service.webhooks.values import MOST_DELIVERIES, REMEMBERED_S, Delivery, DeliveryState

TOPIC = ENDED_TOPIC
"""Hinted at whenever there is something to do at once: a run has ended, or a delivery is due."""
MOST_TRIES = 20

_ADD = load_script("service.webhooks", "add_delivery.lua")
_CLAIM = load_script("service.webhooks", "claim.lua")
_SETTLE = load_script("service.webhooks", "settle.lua")
_REDELIVER = load_script("service.webhooks", "redeliver.lua")
_DELIVERY = TypeAdapter(Delivery)

_log = structlog.get_logger(__name__)


class Deliveries:
    """Those of one tenant. Safe under concurrency, in one process and between several."""

    def __init__(self, store: Store, tenant: TenantId, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._keys = WebhookKeys.of(tenant)

    async def add(self, delivery: Delivery) -> bool:
        """Keep it, due at once; whether there was room, and a webhook. Idempotent by its id."""
        keys = [
            *(self._keys.delivery(delivery.id), self._keys.webhook(delivery.webhook_id)),
            *(self._keys.deliveries(delivery.webhook_id), self._keys.due),
        ]
        arguments: list[Part] = [
            *(delivery.id, _DELIVERY.dump_json(delivery), repr(delivery.created_at), MOST_DELIVERIES),
            *(self._keys.delivery(""), REMEMBERED_S),
        ]
        reply = await self._store.run(_ADD, keys, arguments, is_idempotent=True)
        await self._store.hint(TOPIC)
        return reply in (b"added", b"again")

    async def claim(self, *, until: float, most: int) -> list[DeliveryId]:
        """Take deliveries whose time has come; what nobody settles until then is due again.

        Not idempotent: after `StoreFailed` those that were taken wait for their lease to run out.
        """
        reply = await self._store.run(
            _CLAIM, [self._keys.due], [repr(self._now()), repr(until), most], is_idempotent=False
        )
        assert isinstance(reply, list)
        return [DeliveryId(each.decode()) for each in reply if isinstance(each, bytes)]

    async def settle(self, delivery: Delivery, *, until: float) -> bool:
        """Say what came of an attempt; False when the lease had run out and somebody else has it. Idempotent."""
        again: Part = "" if delivery.next_attempt_at is None else repr(delivery.next_attempt_at)
        arguments: list[Part] = [delivery.id, repr(until), _DELIVERY.dump_json(delivery), again, REMEMBERED_S]
        keys = [self._keys.delivery(delivery.id), self._keys.due]
        return await self._store.run(_SETTLE, keys, arguments, is_idempotent=True) == b"settled"

    async def forget_due(self, delivery_id: DeliveryId) -> None:
        """Its record is gone. Idempotent."""
        await self._store.write("ZREM", self._keys.due, delivery_id)

    async def find(self, delivery_ids: Sequence[DeliveryId]) -> list[Delivery]:
        """Those that are remembered, in this order. One that cannot be read is left out, and logged."""
        if not delivery_ids:
            return []
        records = await self._store.read_many([("HGET", self._keys.delivery(each), "record") for each in delivery_ids])
        found: list[Delivery] = []
        for delivery_id, record in zip(delivery_ids, records, strict=True):
            try:
                if isinstance(record, bytes):
                    found.append(_parsed(record))
            except RecordUnreadable as exc:
                _log.error("webhook_delivery_unreadable", delivery_id=delivery_id, error=str(exc))
        return found

    async def get(self, webhook_id: WebhookId, delivery_id: DeliveryId) -> Delivery:
        """Raises `NotFound`, also for one of another webhook."""
        found = await self.find([delivery_id])
        if not found or found[0].webhook_id != webhook_id:
            raise NotFound(f"there is no delivery {delivery_id[:64]}")
        return found[0]

    async def page(self, webhook_id: WebhookId, *, before: DeliveryId | None, limit: int) -> list[Delivery]:
        """The newest first; `before` is the last of the page before."""
        start = 0
        if before is not None:
            rank = await self._store.read("ZREVRANK", self._keys.deliveries(webhook_id), before)
            start = rank + 1 if isinstance(rank, int) else MOST_DELIVERIES
        ids = await self._store.read("ZREVRANGE", self._keys.deliveries(webhook_id), start, start + limit - 1)
        assert isinstance(ids, list)
        return await self.find([DeliveryId(each.decode()) for each in ids if isinstance(each, bytes)])

    async def redeliver(self, webhook_id: WebhookId, delivery_id: DeliveryId) -> Delivery:
        """Try it again at once, with all its attempts anew. It keeps its id, by which a receiver knows it.

        Raises:
            NotFound: no such delivery of this webhook.
            ChangedMeanwhile: others kept changing it.
        """
        keys = [self._keys.delivery(delivery_id), self._keys.deliveries(webhook_id), self._keys.due]
        for _ in range(MOST_TRIES):
            before = await self.get(webhook_id, delivery_id)
            now = self._now()
            after = replace(before, state=DeliveryState.PENDING, attempts=(), next_attempt_at=now)
            records = [_DELIVERY.dump_json(before), _DELIVERY.dump_json(after)]
            arguments: list[Part] = [delivery_id, *records, repr(now), REMEMBERED_S]
            if await self._store.run(_REDELIVER, keys, arguments, is_idempotent=True) == b"done":
                await self._store.hint(TOPIC)
                return after
        raise ChangedMeanwhile("this delivery is being tried right now: ask again in a moment")


def _parsed(record: bytes) -> Delivery:
    try:
        return _DELIVERY.validate_json(record)
    except ValidationError as exc:
        raise RecordUnreadable(f"the record of a delivery cannot be read ({exc.error_count()} errors)") from exc
