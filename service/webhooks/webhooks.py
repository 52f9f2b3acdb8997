"""The webhooks of one tenant: made, listed, changed, given new secrets, deleted. Each change is in the audit log."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog
from pydantic import TypeAdapter, ValidationError

from service.errors import BadRequest, NotFound
from service.ids import TenantId, WebhookId, new_id
from service.store.connection import Part, Store
from service.store.errors import RecordUnreadable
from service.store.scripts import load_script
from service.tenants.audit import deed
from service.tenants.errors import QuotaExceeded
from service.tenants.records import change_record
from service.tenants.registry import Registry
from service.tenants.values import Author, Caller
from service.webhooks.keys import TENANTS, WebhookKeys
from service.webhooks.signatures import OVERLAP_S, secret_of
from service.webhooks.targets import TargetRules
from service.webhooks.values import MOST_WEBHOOKS, Disabled, EventType, Webhook

MAX_NAME_CHARS = 100

_CREATE = load_script("service.webhooks", "create.lua", leaves_keys=True)
_DELETE = load_script("service.webhooks", "delete.lua")
_WEBHOOK = TypeAdapter(Webhook)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IssuedWebhook:
    """A webhook with its signing secret, which is shown this once."""

    webhook: Webhook
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChange:
    """What is to be different; None stays as it is."""

    url: str | None = None
    name: str | None = None
    events: tuple[EventType, ...] | None = None
    is_enabled: bool | None = None


class Webhooks:
    """Safe under concurrency, in one process and between several."""

    def __init__(
        self, store: Store, registry: Registry, rules: TargetRules, tenant: TenantId, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._registry = registry
        self._rules = rules
        self._tenant = tenant
        self._now = now
        self._keys = WebhookKeys.of(tenant)

    def __repr__(self) -> str:
        return f"<Webhooks of {self._tenant}>"

    async def create(self, url: str, *, name: str, events: tuple[EventType, ...], by: Caller) -> IssuedWebhook:
        """A new webhook, which is told of every run that ends from now on. It ends with the key that makes it.

        Raises:
            BadRequest: the URL or the name cannot be used.
            QuotaExceeded: the tenant has `MOST_WEBHOOKS`.
        """
        webhook = Webhook(
            id=WebhookId(new_id("whk")),
            url=self._checked(url),
            name=_checked_name(name),
            events=events,
            created_at=self._now(),
            by=by.key.id,
        )
        await self._store.write("SADD", TENANTS, self._tenant)
        keys = [self._keys.webhook(webhook.id), self._keys.index, self._keys.watched]
        arguments: list[Part] = [webhook.id, repr(webhook.created_at), _WEBHOOK.dump_json(webhook), MOST_WEBHOOKS]
        if await self._store.run(_CREATE, keys, arguments, is_idempotent=True) == b"full":
            raise QuotaExceeded(f"a tenant has at most {MOST_WEBHOOKS} webhooks: delete one")
        await self._log("webhook.created", webhook, by)
        return self._issued(webhook)

    async def list(self) -> list[Webhook]:
        """The oldest first. One whose record cannot be read is left out, and logged."""
        ids = await self._store.read("ZRANGE", self._keys.index, 0, -1)
        assert isinstance(ids, list)
        found = [WebhookId(each.decode()) for each in ids if isinstance(each, bytes)]
        if not found:
            return []
        records = await self._store.read_many([("HGET", self._keys.webhook(each), "record") for each in found])
        readable: list[Webhook] = []
        for webhook_id, record in zip(found, records, strict=True):
            try:
                if isinstance(record, bytes):
                    readable.append(_parsed(record))
            except RecordUnreadable as exc:
                _log.error("webhook_unreadable", tenant_id=self._tenant, webhook_id=webhook_id, error=str(exc))
        return readable

    async def get(self, webhook_id: WebhookId) -> Webhook:
        """Raises `NotFound`, or `RecordUnreadable`."""
        record = await self._store.read("HGET", self._keys.webhook(webhook_id), "record")
        if not isinstance(record, bytes):
            raise _unknown(webhook_id)
        return _parsed(record)

    async def dropped(self, webhook_id: WebhookId) -> int:
        """How many events found no room among the deliveries that wait."""
        reply = await self._store.read("HGET", self._keys.webhook(webhook_id), "dropped")
        return int(reply) if isinstance(reply, bytes) else 0

    async def change(self, webhook_id: WebhookId, change: WebhookChange, *, by: Author) -> Webhook:
        """Enabling one clears what it had failed before, but for one whose key has ended: nothing brings that back.

        Raises:
            NotFound: no such webhook.
            BadRequest: the URL or the name cannot be used, or it ended with its key.
        """
        url = None if change.url is None else self._checked(change.url)
        name = None if change.name is None else _checked_name(change.name)

        def changed(webhook: Webhook) -> Webhook:
            webhook = replace(
                webhook,
                url=webhook.url if url is None else url,
                name=webhook.name if name is None else name,
                events=webhook.events if change.events is None else change.events,
            )
            if change.is_enabled is None:
                return webhook
            if webhook.disabled is Disabled.KEY_ENDED:
                raise BadRequest("the API key that made this webhook has ended: make another webhook")
            if change.is_enabled:
                return replace(webhook, disabled=None, failing_since=None)
            return replace(webhook, disabled=webhook.disabled or Disabled.BY_TENANT)

        webhook = await self.update(webhook_id, changed)
        await self._log("webhook.changed", webhook, by)
        return webhook

    async def rotate(self, webhook_id: WebhookId, *, by: Author) -> IssuedWebhook:
        """A new signing secret; for `OVERLAP_S` requests are signed with the one before as well. Raises `NotFound`."""
        until = self._now() + OVERLAP_S
        webhook = await self.update(
            webhook_id,
            lambda found: replace(found, secret_version=found.secret_version + 1, previous_secret_until=until),
        )
        await self._log("webhook.rotated", webhook, by)
        return self._issued(webhook)

    async def delete(self, webhook_id: WebhookId, *, by: Author) -> None:
        """With all its deliveries. Raises `NotFound`."""
        webhook = await self.get(webhook_id)
        keys = [self._keys.webhook(webhook_id), self._keys.index, self._keys.watched, self._keys.ended]
        keys += [self._keys.deliveries(webhook_id), self._keys.due]
        await self._store.run(_DELETE, keys, [webhook_id, self._keys.delivery("")], is_idempotent=True)
        await self._log("webhook.deleted", webhook, by)

    async def update(self, webhook_id: WebhookId, change: Callable[[Webhook], Webhook]) -> Webhook:
        """Replace a webhook by what `change` makes of it; nobody's change is overwritten. Raises `NotFound`."""

        def changed(record: bytes) -> tuple[Webhook, bytes, tuple[Part, ...]]:
            webhook = change(_parsed(record))
            return webhook, _WEBHOOK.dump_json(webhook), ()

        return await change_record(self._store, self._keys.webhook(webhook_id), changed, lambda: _unknown(webhook_id))

    def _issued(self, webhook: Webhook) -> IssuedWebhook:
        return IssuedWebhook(webhook, secret_of(self._registry.vault, self._tenant, webhook))

    def _checked(self, url: str) -> str:
        self._rules.parse(url)
        return url

    async def _log(self, action: str, webhook: Webhook, by: Author) -> None:
        # Of the URL its host only: paths and queries of webhooks often carry a token.
        host = self._rules.parse(webhook.url).host[:200]
        await self._registry.logs.of(self._tenant).record(deed(action, webhook.id, by, host=host))


def _checked_name(name: str) -> str:
    name = name.strip()
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise BadRequest(f"the name of a webhook has at most {MAX_NAME_CHARS} printable characters")
    return name


def _parsed(record: bytes) -> Webhook:
    try:
        return _WEBHOOK.validate_json(record)
    except ValidationError as exc:
        raise RecordUnreadable(f"the record of a webhook cannot be read ({exc.error_count()} errors)") from exc


def _unknown(webhook_id: WebhookId) -> NotFound:
    return NotFound(f"there is no webhook {webhook_id[:64]}")
