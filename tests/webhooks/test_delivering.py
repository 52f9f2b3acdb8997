"""Ended runs on their way to receivers, through real stores, runs and sockets."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import pytest

from service.ids import EMBEDDED_TENANT, TenantId, new_id
from service.loop.values import StopReason
from service.runs.values import RunRequest
from service.store.keys import Keys
from service.tenants.key_plans import KeyRequest
from service.tenants.values import OPERATOR, Caller, Scope
from service.webhooks.deliveries import TOPIC
from service.webhooks.delivering import LEASE_S, Delivering
from service.webhooks.keys import WebhookKeys
from service.webhooks.rooms import WebhookRooms
from service.webhooks.values import (
    MOST_DELIVERIES,
    WANTED,
    Delivery,
    DeliveryState,
    Disabled,
    EventType,
    Outcome,
    Webhook,
    body_of,
)
from service.webhooks.webhooks import IssuedWebhook, WebhookChange
from tests.runs.playing import Stage, repl, stage
from tests.webhooks.receiving import PATIENCE_S, Answer, Heard, receiving, status, takes_it

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Clock:
    """The machine's, moved by a test."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One replica's view on the webhooks of a tenant of the test's own."""

    on: Stage
    clock: Clock
    rooms: WebhookRooms
    tenant: TenantId
    by: Caller

    async def made(self, url: str) -> IssuedWebhook:
        return await self.rooms.webhooks_of(self.tenant).create(url, name="", events=WANTED, by=self.by)

    async def until(self, webhook: Webhook, is_so: Callable[[Webhook], bool]) -> None:
        """Waits until this can be said of the webhook."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                if is_so(await self.rooms.webhooks_of(self.tenant).get(webhook.id)):
                    return
                await anyio.sleep(0.02)

    async def until_logged(self, action: str, **details: str) -> None:
        """Waits until the newest record of the tenant's audit log is this."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                record = (await self.on.service.registry.logs.of(self.tenant).page())[-1]
                if (record.deed.action, record.deed.details) == (action, details):
                    return
                await anyio.sleep(0.02)

    async def settled(self, delivery: Delivery, *states: DeliveryState, attempts: int = 1) -> Delivery:
        """The delivery once it has had so many attempts and is in one of these states."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                found = await self.rooms.deliveries_of(self.tenant).get(delivery.webhook_id, delivery.id)
                if found.state in states and len(found.attempts) >= attempts:
                    return found
                await anyio.sleep(0.02)

    async def later(self, seconds: float) -> None:
        """Let time pass, and everybody look."""
        self.clock.ahead_s += seconds
        await self.on.service.store.hint(TOPIC)

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """A replica that delivers, until it is killed at the end of the block."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Delivering(self.rooms, self.on.service.tenancy).keep_delivering)
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture(scope="module")
async def on(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Stage]:
    settings = {"RLM_WEBHOOK_NETWORKS": "127.0.0.0/8"}
    turn = repl("answer['content'] = 'the secret answer'\nanswer['ready'] = True")
    async with stage(tmp_path_factory.mktemp("webhooks"), turn, settings=settings) as running:
        await running.service.registry.tenants.ensure_default()
        yield running


async def post_of(on: Stage, tenant: TenantId) -> Post:
    registry, clock = on.service.registry, Clock()
    request = KeyRequest(name="maker", scopes=frozenset({Scope.WEBHOOKS}))
    issued = await registry.api_keys.create(tenant, request, by=OPERATOR)
    by = Caller(tenant=await registry.tenants.get(tenant), key=issued.key)
    rooms = replace(on.service.webhooks, now=clock)
    return Post(on=on, clock=clock, rooms=rooms, tenant=tenant, by=by)


@pytest.fixture
async def post(on: Stage) -> Post:
    return await post_of(on, (await on.service.registry.tenants.create("ours", by=OPERATOR)).id)


def answers(*replies: bytes) -> Answer:
    """One after the other; the last repeats."""
    left = list(replies)

    async def answer(heard: Heard) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


async def test_the_end_of_a_run_is_told_and_signed(on: Stage) -> None:
    """Its facts, neither question nor answer; the signature is Standard Webhooks' over id, time and body."""
    post = await post_of(on, EMBEDDED_TENANT)
    async with receiving() as receiver, post.delivering():
        issued = await post.made(receiver.url)
        request: RunRequest = await on.request("four")
        played = await on.play(replace(request, question="a secret question?"))
        (heard,) = await receiver.heard_at_least(1)
        await post.rooms.webhooks_of(post.tenant).delete(issued.webhook.id, by=post.by)
    told = json.loads(heard.body)
    assert told["type"] == "run.finished"
    assert (told["data"]["run_id"], told["data"]["stop_reason"]) == (played.run_id, StopReason.ANSWERED)
    assert told["data"]["spent_nano_usd"] == played.finished.spent > 0
    assert b"secret" not in heard.body
    key = base64.b64decode(issued.secret.removeprefix("whsec_"))
    signed = f"{heard.headers['webhook-id']}.{heard.headers['webhook-timestamp']}.".encode() + heard.body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert heard.headers["webhook-signature"] == f"v1,{expected}"


async def test_an_end_is_noted_though_nobody_delivers(on: Stage) -> None:
    """What ended while no replica looked is told when one does; without a webhook nothing is noted."""
    post = await post_of(on, EMBEDDED_TENANT)
    ended = Keys(EMBEDDED_TENANT)("runs", "ended")
    await on.play(await on.request("four"))
    assert await on.service.store.read("EXISTS", ended) == 0
    async with receiving() as receiver:
        issued = await post.made(receiver.url)
        played = await on.play(await on.request("four"))
        async with post.delivering():
            (heard,) = await receiver.heard_at_least(1)
        assert json.loads(heard.body)["data"]["run_id"] == played.run_id
    await post.rooms.webhooks_of(post.tenant).delete(issued.webhook.id, by=post.by)
    await on.play(await on.request("four"))
    assert await on.service.store.read("EXISTS", ended) == 0


async def test_what_failed_comes_again_until_it_is_taken(post: Post) -> None:
    """The same bytes under the same id, each attempt in the log; the webhook's failing is forgotten afterwards."""
    async with receiving(answers(status(503), status(302, "location: http://127.0.0.1:1/"), status(200))) as receiver:
        issued = await post.made(receiver.url)
        async with post.delivering():
            delivery = await post.rooms.test(post.tenant, issued.webhook)
            await post.settled(delivery, DeliveryState.PENDING, attempts=1)
            await post.until(issued.webhook, lambda webhook: webhook.failing_since is not None)
            await post.later(10)
            await post.settled(delivery, DeliveryState.PENDING, attempts=2)
            await post.later(3600)
            done = await post.settled(delivery, DeliveryState.DELIVERED, attempts=3)
            await post.until(issued.webhook, lambda webhook: webhook.failing_since is None)
    assert [attempt.status for attempt in done.attempts] == [503, 302, 200]
    assert len({(heard.headers["webhook-id"], heard.body) for heard in receiver.heard}) == 1


async def test_two_replicas_deliver_each_once(post: Post) -> None:
    """However many look at once."""
    async with receiving() as receiver:
        issued = await post.made(receiver.url)
        deliveries = [await post.rooms.test(post.tenant, issued.webhook) for _ in range(30)]
        async with post.delivering(), post.delivering():
            for delivery in deliveries:
                await post.settled(delivery, DeliveryState.DELIVERED)
        ids = [heard.headers["webhook-id"] for heard in receiver.heard]
    assert sorted(ids) == sorted(delivery.id for delivery in deliveries)


async def test_a_killed_replicas_delivery_is_made_by_the_next(post: Post) -> None:
    """When its lease has run out, under the same id, and not before."""

    async def never(heard: Heard) -> bytes:
        await anyio.Event().wait()
        return b""

    async with receiving(never) as receiver:
        issued = await post.made(receiver.url)
        async with post.delivering():
            delivery = await post.rooms.test(post.tenant, issued.webhook)
            await receiver.heard_at_least(1)
        receiver.answer = takes_it
        async with post.delivering():
            other = await post.rooms.test(post.tenant, issued.webhook)
            await post.settled(other, DeliveryState.DELIVERED)
            assert len(receiver.heard) == 2
            await post.later(LEASE_S + 1)
            done = await post.settled(delivery, DeliveryState.DELIVERED)
    assert len(done.attempts) == 1
    assert [heard.headers["webhook-id"] for heard in receiver.heard] == [delivery.id, other.id, delivery.id]


async def test_a_replica_that_lost_its_lease_settles_nothing(post: Post) -> None:
    """Whoever has the delivery by then decides."""
    async with receiving() as receiver:
        issued = await post.made(receiver.url)
        delivery = await post.rooms.test(post.tenant, issued.webhook)
        deliveries, first = post.rooms.deliveries_of(post.tenant), post.clock() + 10
        assert await deliveries.claim(until=first, most=8) == [delivery.id]
        assert await deliveries.claim(until=first, most=8) == []
        post.clock.ahead_s += 20
        second = post.clock() + 10
        assert await deliveries.claim(until=second, most=8) == [delivery.id]
        stale = replace(delivery, state=DeliveryState.FAILED)
        assert not await deliveries.settle(stale, until=first)
        assert await deliveries.settle(replace(delivery, state=DeliveryState.DELIVERED), until=second)
        assert (await deliveries.get(delivery.webhook_id, delivery.id)).state is DeliveryState.DELIVERED


@pytest.mark.parametrize("why", [Disabled.GONE, Disabled.KEY_ENDED])
async def test_a_webhook_ends_with_its_receiver_or_its_key(post: Post, why: Disabled) -> None:
    """410 disables it, and so does the end of the key that made it, without a request; the audit log says which."""
    async with receiving(answers(status(410))) as receiver, post.delivering():
        issued = await post.made(receiver.url)
        if why is Disabled.KEY_ENDED:
            await post.on.service.registry.api_keys.revoke(post.by.key.id, by=OPERATOR)
        delivery = await post.rooms.test(post.tenant, issued.webhook)
        done = await post.settled(delivery, DeliveryState.FAILED)
        await post.until(issued.webhook, lambda webhook: webhook.disabled is why)
        await post.until_logged("webhook.disabled", reason=why)
    assert len(receiver.heard) == (1 if why is Disabled.GONE else 0)
    assert done.attempts[0].outcome is (Outcome.REFUSED if why is Disabled.GONE else Outcome.NOT_SENT)


async def test_a_suspended_tenant_is_told_nothing(post: Post) -> None:
    """What comes due meanwhile is not sent, and can be asked for again."""
    async with receiving() as receiver, post.delivering():
        issued = await post.made(receiver.url)
        await post.on.service.registry.tenants.suspend(post.tenant, by=OPERATOR)
        delivery = await post.rooms.test(post.tenant, issued.webhook)
        done = await post.settled(delivery, DeliveryState.FAILED)
        assert (done.attempts[0].outcome, receiver.heard) == (Outcome.NOT_SENT, [])
        await post.on.service.registry.tenants.resume(post.tenant, by=OPERATOR)
        await post.rooms.deliveries_of(post.tenant).redeliver(issued.webhook.id, delivery.id)
        await post.settled(delivery, DeliveryState.DELIVERED)


async def test_what_waits_is_bounded(post: Post) -> None:
    """Beyond it events are dropped and counted; what is settled makes room."""
    async with receiving() as receiver:
        issued = await post.made(receiver.url)
        deliveries = post.rooms.deliveries_of(post.tenant)

        async def add() -> bool:
            body = body_of(EventType.TEST, post.clock(), {})
            identity = new_id("dlv")
            return await deliveries.add(
                Delivery(
                    id=identity,  # type: ignore[arg-type]
                    webhook_id=issued.webhook.id,
                    event=EventType.TEST,
                    body=body,
                    created_at=post.clock(),
                )
            )

        assert all([await add() for _ in range(MOST_DELIVERIES)])
        assert not await add()
        assert await post.rooms.webhooks_of(post.tenant).dropped(issued.webhook.id) == 1
        until = post.clock() + 10
        (oldest,) = await deliveries.find(await deliveries.claim(until=until, most=1))
        assert await deliveries.settle(replace(oldest, state=DeliveryState.DELIVERED), until=until)
        assert await add()
        await post.rooms.webhooks_of(post.tenant).delete(issued.webhook.id, by=post.by)
        assert await deliveries.claim(until=until, most=8) == []


async def test_a_disabled_webhook_is_enabled_again(post: Post) -> None:
    """By its tenant, unless its key has ended."""
    webhooks = post.rooms.webhooks_of(post.tenant)
    async with receiving() as receiver:
        webhook = (await post.made(receiver.url)).webhook
        off = await webhooks.change(webhook.id, WebhookChange(is_enabled=False), by=post.by)
        assert off.disabled is Disabled.BY_TENANT
        assert not off.wants(EventType.RUN_FINISHED)
        assert (await webhooks.change(webhook.id, WebhookChange(is_enabled=True), by=post.by)).disabled is None


async def test_records_that_cannot_be_read_hold_up_nobody(on: Stage, post: Post) -> None:
    """Neither a webhook's, nor a delivery's, nor an ended run's: other tenants are told, and so is this one of what
    comes behind them; what can never be sent is not tried again."""
    other = await post_of(on, (await on.service.registry.tenants.create("theirs", by=OPERATOR)).id)
    store, keys = on.service.store, WebhookKeys.of(post.tenant)
    async with receiving() as receiver, receiving() as theirs:
        damaged, sound = await post.made(receiver.url), await post.made(receiver.url)
        lost = await post.rooms.test(post.tenant, damaged.webhook)
        unreadable = await post.rooms.test(post.tenant, sound.webhook)
        behind = await post.rooms.test(post.tenant, sound.webhook)
        of_other = await other.rooms.test(other.tenant, (await other.made(theirs.url)).webhook)
        run_id = new_id("run")
        await store.write_many(
            [
                ("HSET", keys.webhook(damaged.webhook.id), "record", "{"),
                ("HSET", keys.delivery(unreadable.id), "record", '{"id": 1}'),
                ("HSET", Keys(post.tenant)("run", run_id), "seq", "1"),
                ("XADD", Keys(post.tenant)("run", run_id, "events"), "1-0", "e", "neither packed nor JSON"),
                ("RPUSH", keys.ended, run_id),
            ]
        )
        async with post.delivering():
            await other.settled(of_other, DeliveryState.DELIVERED)
            await post.settled(behind, DeliveryState.DELIVERED)
            with anyio.fail_after(PATIENCE_S):
                while True:
                    if not await store.read("ZCARD", keys.due):
                        break
                    await anyio.sleep(0.02)
            again = await post.rooms.test(post.tenant, sound.webhook)
            await post.settled(again, DeliveryState.DELIVERED)
    assert {heard.headers["webhook-id"] for heard in receiver.heard} == {behind.id, again.id}
    assert await post.rooms.deliveries_of(post.tenant).find([unreadable.id]) == []
    assert lost.state is DeliveryState.PENDING
    assert [each.id for each in await post.rooms.webhooks_of(post.tenant).list()] == [sound.webhook.id]
