"""The loop of a replica: take in the runs that have ended, and deliver what is due. Any number of replicas may."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace

import anyio
import anyio.abc
import structlog

from service.errors import NotFound, RlmServiceError
from service.ids import DeliveryId, RunId, TenantId, born_at
from service.journal.ended import EndedRuns
from service.runs.tenancy import Tenancy
from service.store.connection import Command
from service.store.errors import RecordUnreadable, StoreFailed
from service.tenants.audit import deed
from service.tenants.values import OPERATOR
from service.webhooks.deliveries import TOPIC
from service.webhooks.keys import TENANTS, WebhookKeys
from service.webhooks.post import WITHIN_S, Poster
from service.webhooks.rooms import WebhookRooms
from service.webhooks.schedule import after_attempt, health_after
from service.webhooks.signatures import signed_headers
from service.webhooks.values import (
    REMEMBERED_S,
    Attempt,
    Delivery,
    Disabled,
    EventType,
    Outcome,
    Webhook,
    body_of,
    delivery_id,
    facts_of,
)
from service.webhooks.webhooks import Webhooks

LOOK_AGAIN_AFTER_S = 5.0
"""Hints may be lost, and what failed comes due without one."""
LEASE_S = 4 * WITHIN_S
"""Longer than any attempt takes, so that only the dead lose theirs."""
AT_ONCE = 64
"""Attempts of this replica."""
AT_ONCE_PER_TENANT = 8
"""So that the slow receivers of one tenant hold up nobody else."""
TAKEN_IN_AT_ONCE = 100

_log = structlog.get_logger(__name__)


class Delivering:
    """Of one replica; `keep_delivering` is its only way in."""

    def __init__(self, rooms: WebhookRooms, tenancy: Tenancy) -> None:
        self._rooms = rooms
        self._tenancy = tenancy
        self._poster = Poster(rooms.rules)
        self._under_way: dict[TenantId, int] = {}

    def __repr__(self) -> str:
        return f"<Delivering under_way={sum(self._under_way.values())}>"

    async def keep_delivering(self) -> None:
        """Until cancelled. Attempts that are broken off then are made again when their leases run out."""
        async with anyio.create_task_group() as attempts:
            attempts.start_soon(self._forget_erased)
            with self._rooms.store.listen(TOPIC) as hint:
                while True:
                    try:
                        await self._look(attempts)
                    except RlmServiceError as exc:
                        _log.warning("webhooks_not_looked_at", error=str(exc))
                    await hint.wait(at_most_s=LOOK_AGAIN_AFTER_S)

    async def _forget_erased(self) -> None:
        """Tenants that are no more have no webhooks either: once for each start."""
        with contextlib.suppress(RlmServiceError):  # the next start does it
            for tenant in await self._tenants():
                try:
                    await self._rooms.registry.tenants.get(tenant)
                except NotFound:
                    await self._rooms.store.write("SREM", TENANTS, tenant)

    async def _tenants(self) -> list[TenantId]:
        members = await self._rooms.store.read("SMEMBERS", TENANTS)
        assert isinstance(members, list)
        return [TenantId(each.decode()) for each in members if isinstance(each, bytes)]

    async def _look(self, attempts: anyio.abc.TaskGroup) -> None:
        tenants = await self._tenants()
        for tenant, (ended, due) in zip(tenants, await self._waiting(tenants), strict=True):
            if not (ended or due):
                continue
            try:
                if ended:
                    await self._take_in(tenant)
            except Exception:  # noqa: BLE001 -- one of the few boundaries
                # What is wrong with one tenant's records holds up nobody else's deliveries, nor its own that are due.
                _log.exception("ended_runs_not_taken_in", tenant_id=tenant)
            await self._begin(tenant, attempts)

    async def _waiting(self, tenants: Sequence[TenantId]) -> list[tuple[int, int]]:
        """How many ended runs and how many due deliveries each tenant has; in one round trip."""
        if not tenants:
            return []
        now, commands = repr(self._rooms.now()), list[Command]()
        for tenant in tenants:
            keys = WebhookKeys.of(tenant)
            commands += [("LLEN", keys.ended), ("ZCOUNT", keys.due, "-inf", now)]
        counts = [reply if isinstance(reply, int) else 0 for reply in await self._rooms.store.read_many(commands)]
        return list(zip(counts[::2], counts[1::2], strict=True))

    async def _take_in(self, tenant: TenantId) -> None:
        """Make a delivery of every ended run for every webhook that wants it. Doing it twice makes them once."""
        ended = EndedRuns(self._rooms.store, tenant)
        webhooks = await self._rooms.webhooks_of(tenant).list()
        while run_ids := await ended.noted(TAKEN_IN_AT_ONCE):
            taken_in = [run_id for run_id in run_ids if await self._tell_of(tenant, run_id, webhooks)]
            await ended.forget(taken_in)
            if left := [run_id for run_id in run_ids if run_id not in taken_in]:
                await ended.put_off(left)  # until the next look
                return

    async def _tell_of(self, tenant: TenantId, run_id: RunId, webhooks: Sequence[Webhook]) -> bool:
        """Whether all that can be done about this end is done; False where it could not be read now."""
        event = EventType.RUN_FINISHED
        wanting = [webhook for webhook in webhooks if webhook.wants(event)]
        if not wanting:
            return True
        try:
            view = await self._tenancy.runs_of(tenant).show(run_id)
        except NotFound:
            return True  # erased meanwhile
        except StoreFailed as exc:
            # The store is there: what it has of this run is damaged, or written by a newer replica.
            _log.warning("ended_run_not_read", tenant_id=tenant, run_id=run_id, error=str(exc))
            return self._rooms.now() > (born_at(run_id) or 0.0) + REMEMBERED_S
        except Exception:  # noqa: BLE001 -- one of the few boundaries
            # A run that cannot be read is not told of, and those behind it are.
            _log.exception("ended_run_unreadable", tenant_id=tenant, run_id=run_id)
            return True
        at = self._rooms.now()
        body = body_of(event, view.finished_at or at, facts_of(view))
        for webhook in wanting:
            delivery = Delivery(
                id=delivery_id(webhook.id, event, run_id), webhook_id=webhook.id, event=event, body=body, created_at=at
            )
            if not await self._rooms.deliveries_of(tenant).add(delivery):
                _log.warning("webhook_event_dropped", tenant_id=tenant, webhook_id=webhook.id, run_id=run_id)
        return True

    async def _begin(self, tenant: TenantId, attempts: anyio.abc.TaskGroup) -> None:
        """Start attempts for as many deliveries as there are places for."""
        under_way = self._under_way.get(tenant, 0)
        most = min(AT_ONCE_PER_TENANT - under_way, AT_ONCE - sum(self._under_way.values()))
        if most <= 0:
            return
        until = self._rooms.now() + LEASE_S
        for delivery in await self._rooms.deliveries_of(tenant).claim(until=until, most=most):
            self._under_way[tenant] = self._under_way.get(tenant, 0) + 1
            attempts.start_soon(self._attempt, tenant, delivery, until)

    async def _attempt(self, tenant: TenantId, identity: DeliveryId, until: float) -> None:
        try:
            await self._deliver(tenant, identity, until)
        except RlmServiceError as exc:
            _log.warning("webhook_not_settled", tenant_id=tenant, delivery_id=identity, error=str(exc))
        except Exception:  # noqa: BLE001 -- one of the few boundaries
            # A defect in one attempt must not end the others. Its lease runs out.
            _log.exception("webhook_attempt_failed", tenant_id=tenant, delivery_id=identity)
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]
            # Its place is free: whatever else is due may have it.
            self._rooms.store.wake_topic(TOPIC)

    async def _deliver(self, tenant: TenantId, identity: DeliveryId, until: float) -> None:
        deliveries, webhooks = self._rooms.deliveries_of(tenant), self._rooms.webhooks_of(tenant)
        found = await deliveries.find([identity])
        if not found:
            await deliveries.forget_due(identity)
            return
        delivery = found[0]
        try:
            webhook = await self._checked(tenant, delivery, webhooks)
        except (NotFound, RecordUnreadable) as exc:
            _log.warning("webhook_delivery_dropped", tenant_id=tenant, delivery_id=identity, error=str(exc))
            await deliveries.forget_due(identity)
            return
        now = self._rooms.now()
        if webhook.disabled is not None or not (await self._rooms.registry.tenants.get(tenant)).may_act:
            attempt = Attempt(at=now, outcome=Outcome.NOT_SENT)
        else:
            body = delivery.body.encode()
            headers = signed_headers(
                self._rooms.registry.vault, tenant, webhook, message_id=delivery.id, body=body, now=now
            )
            attempt = await self._poster.post(tenant, webhook.url, headers, body, at=now)
        if not await deliveries.settle(after_attempt(delivery, attempt, random.random()), until=until):  # noqa: S311
            return
        if health_after(webhook, attempt) != webhook:
            after = await webhooks.update(webhook.id, lambda current: health_after(current, attempt))
            if after.disabled is not None and webhook.disabled is None:
                await self._tell_disabled(tenant, after)

    async def _checked(self, tenant: TenantId, delivery: Delivery, webhooks: Webhooks) -> Webhook:
        """The webhook of a delivery, disabled by now if the key that made it has ended."""
        webhook = await webhooks.get(delivery.webhook_id)
        if webhook.disabled is None and not await self._rooms.registry.api_keys.is_live(webhook.by):
            webhook = await webhooks.update(webhook.id, lambda current: replace(current, disabled=Disabled.KEY_ENDED))
            await self._tell_disabled(tenant, webhook)
        return webhook

    async def _tell_disabled(self, tenant: TenantId, webhook: Webhook) -> None:
        assert webhook.disabled is not None, "that is what is told"
        log = self._rooms.registry.logs.of(tenant)
        await log.record(deed("webhook.disabled", webhook.id, OPERATOR, reason=webhook.disabled))
        _log.info("webhook_disabled", tenant_id=tenant, webhook_id=webhook.id, reason=webhook.disabled)
