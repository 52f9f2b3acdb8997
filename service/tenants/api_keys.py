"""API keys: made, listed, narrowed, rotated, revoked, and recognised.

A key is stored without its secret: what is kept is an HMAC of it, so nobody can show it again. What a key may be, given
who asks for it, is `key_plans`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog
from pydantic import TypeAdapter

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, KeyId, TenantId, is_id
from service.store.connection import Part, Store
from service.store.errors import StoreFailed
from service.store.scripts import load_script
from service.tenants.audit import AuditLogs, deed
from service.tenants.errors import QuotaExceeded, TenantSuspended, Unauthenticated
from service.tenants.key_files import KeyFile
from service.tenants.key_plans import KeyRequest, StoredKey, changed_key, may_see, planned_key
from service.tenants.key_secrets import KeySecret, new_secret, parse_secret
from service.tenants.recent import Recent
from service.tenants.records import KEYS, SOLE_TENANCIES, TENANTS, api_key_key, change_record, keys_of, tenant_key
from service.tenants.tenants import default_tenant, dump_tenant, parse_tenant
from service.tenants.values import OPERATOR, ApiKey, Author, Caller, CallerLimits, Scope, limits_in_words

MOST_KEYS = 1000
"""Of one tenant."""
REMEMBERED_S = 1.0
"""How long a replica goes on believing a key: what a revocation or a suspension takes to be in force everywhere."""
REMEMBERED_KEYS = 10_000
USED_EVERY_S = 60.0
"""How often a key's use is written down, at most."""
LONGEST_OVERLAP_S = 30 * 86_400.0

_FIRST_START = KEYS("first_start")
_CREATE = load_script("service.tenants", "create_key.lua")
_CREATE_TENANT = load_script("service.tenants", "create_tenant.lua")
_USED = load_script("service.tenants", "used_key.lua")
_STORED = TypeAdapter(StoredKey)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key with its secret, which is shown this once."""

    key: ApiKey
    secret: str = field(repr=False)


class ApiKeys:
    """All keys of this installation. Safe under concurrency, in one process and between several."""

    def __init__(
        self,
        store: Store,
        pepper: KeyFile,
        logs: AuditLogs,
        now: Callable[[], float],
        *,
        most_keys: int = MOST_KEYS,
    ) -> None:
        """`most_keys` is what one tenant may have."""
        self._store = store
        self._most_keys = most_keys
        self._logs = logs
        self._pepper = pepper
        self._now = now
        self._recent: Recent[str, Caller] = Recent(REMEMBERED_KEYS, REMEMBERED_S, now)

    def __repr__(self) -> str:
        return f"<ApiKeys {self._recent!r}>"

    async def authenticate(self, secret: str) -> Caller:
        """Who has this key. What it costs: nothing for what is no key; one or two reads a second and key otherwise.

        Raises:
            Unauthenticated: malformed, unknown, wrong, expired or revoked.
            TenantSuspended: the key is right and its tenant may not act.
            StoreFailed: nobody can tell.
        """
        parsed = parse_secret(secret)
        if parsed is None:
            raise _unauthenticated()
        mac = parsed.mac(self._pepper)
        caller = self._recent.get(mac)
        if caller is None:
            caller = await self._look_up(parsed.key_id, mac)
            self._recent.put(mac, caller)
            await self._note_use(caller.key)
        now = self._now()
        if not all(key.is_live(now) for key in (caller.key, *caller.ancestors)):
            raise Unauthenticated("the API key has expired or was revoked: use another one")
        if not caller.tenant.may_act:
            raise TenantSuspended(f"the tenant {caller.tenant.id} is suspended: ask the operator of this service")
        return caller

    async def create(self, tenant_id: TenantId, request: KeyRequest, *, by: Author) -> IssuedKey:
        """A new key of a tenant.

        Raises:
            NotFound: no such tenant, for this author.
            NotPermitted: it would do more than its author.
            BadRequest: something in the request cannot be used.
            QuotaExceeded: the tenant has the most keys that it may have.
        """
        key = planned_key(tenant_id, request, by, self._now())
        secret = new_secret(key.id)
        reply = await self._store.run(
            _CREATE,
            [api_key_key(key.id), tenant_key(tenant_id), keys_of(tenant_id)],
            [key.id, repr(key.created_at), self._kept(key, secret), self._most_keys, KEYS("key", "")],
            is_idempotent=True,
        )
        match reply:
            case b"made":
                await self._log("key.created", key, by, **_in_words(key))
                return IssuedKey(key, secret.text)
            case b"full":
                raise QuotaExceeded(f"{tenant_id} has {self._most_keys} keys, which is the most: revoke some")
            case _:
                raise NotFound(f"there is no tenant {tenant_id}")

    async def first_key(self, keep: Callable[[IssuedKey], Awaitable[None]]) -> IssuedKey | None:
        """At the first start ever: the tenant `default` and one admin key. None at every later start.

        Called by every replica that starts; exactly one of them gets the key. `keep` is awaited before the key is one,
        so that no first key is lost with the only copy of its secret.
        """
        if await self._store.read("EXISTS", _FIRST_START):
            return None
        now = self._now()
        request = KeyRequest(name="first admin key", scopes=frozenset(Scope))
        key = planned_key(EMBEDDED_TENANT, request, OPERATOR, now)
        secret = new_secret(key.id)
        issued = IssuedKey(key, secret.text)
        await keep(issued)
        reply = await self._store.run(
            _CREATE_TENANT,
            [
                *(tenant_key(EMBEDDED_TENANT), TENANTS, SOLE_TENANCIES),
                *(_FIRST_START, api_key_key(key.id), keys_of(EMBEDDED_TENANT)),
            ],
            [
                *(EMBEDDED_TENANT, repr(now), dump_tenant(default_tenant(now))),
                *(key.id, self._kept(key, secret)),
            ],
            is_idempotent=True,
        )
        if reply != b"made":
            return None
        await self._log("key.created", key, OPERATOR, **_in_words(key))
        return issued

    async def get(self, key_id: KeyId, *, by: Author) -> ApiKey:
        """Raises `NotFound`, also for a key that the author may not see."""
        found = await self._read([key_id])
        if not found or not may_see(by, found[0].key):
            raise _unknown(key_id)
        return found[0].key

    async def of_tenant(self, tenant_id: TenantId, *, by: Author) -> list[ApiKey]:
        """A tenant's keys that the author may see, the oldest first; those that ended as well."""
        found = await self._read(await self._ids(tenant_id))
        return [stored.key for stored in found if may_see(by, stored.key)]

    async def update(
        self, key_id: KeyId, *, by: Author, name: str | None = None, limits: CallerLimits | None = None
    ) -> ApiKey:
        """Another name or other limits; what is left out stays. A key cannot change itself.

        Raises:
            NotFound: no such key, for this author.
            NotPermitted: it is the author's own, or a limit would be wider than the author's.
            BadRequest: the name or a limit cannot be used.
        """
        await self.get(key_id, by=by)
        key = await self._change(
            key_id, lambda stored: replace(stored, key=changed_key(stored.key, name=name, limits=limits, by=by))
        )
        await self._log("key.changed", key, by, **_in_words(key))
        return key

    async def rotate(self, key_id: KeyId, *, overlap_s: float, by: Author) -> IssuedKey:
        """A new secret for a key; the old one works for another `overlap_s`, and the one before it no more.

        The key stays the same, with its limits and what it has spent of them.

        Raises:
            NotFound: no such key, for this author.
            BadRequest: the key has ended, or the overlap is negative or longer than `LONGEST_OVERLAP_S`.
        """
        if not 0 <= overlap_s <= LONGEST_OVERLAP_S:
            raise BadRequest(f"the overlap must be 0 to {LONGEST_OVERLAP_S:.0f} seconds, found {overlap_s}")
        await self.get(key_id, by=by)
        secret, now = new_secret(key_id), self._now()
        mac = secret.mac(self._pepper)
        key = await self._change(key_id, lambda stored: stored.rotated(mac, now, overlap_s))
        await self._log("key.rotated", key, by, overlap_s=f"{overlap_s:g}")
        return IssuedKey(key, secret.text)

    async def revoke(self, key_id: KeyId, *, by: Author) -> ApiKey:
        """End a key and all that it made, everywhere within about `REMEMBERED_S`. Idempotent. Raises `NotFound`."""
        await self.get(key_id, by=by)
        now = self._now()

        def revoked(stored: StoredKey) -> StoredKey:
            return replace(stored, key=replace(stored.key, revoked_at=stored.key.revoked_at or now))

        key = await self._change(key_id, revoked, more=["revoked", "1"])
        await self._log("key.revoked", key, by)
        return key

    async def is_live(self, key_id: KeyId) -> bool:
        """Whether a key and all that it descends from still work: what it left behind ends with it."""
        found = await self._read([key_id])
        ancestors = await self._read(found[0].key.ancestors) if found else []
        now = self._now()
        is_whole = bool(found) and len(ancestors) == len(found[0].key.ancestors)
        return is_whole and all(stored.key.is_live(now) for stored in (*found, *ancestors))

    async def forget_all(self, tenant_id: TenantId) -> int:
        """Part of an erasure: every key of the tenant; how many there were. Idempotent."""
        found = await self._ids(tenant_id)
        if found:
            await self._store.write("DEL", *map(api_key_key, found))
        await self._store.write("DEL", keys_of(tenant_id))
        self._recent.clear()
        return len(found)

    def _kept(self, key: ApiKey, secret: KeySecret) -> bytes:
        return _STORED.dump_json(StoredKey(key=key, mac=secret.mac(self._pepper)))

    async def _look_up(self, key_id: KeyId, mac: str) -> Caller:
        stored = next(iter(await self._read([key_id])), None)
        if stored is None or not stored.is_opened_by(mac, self._now()):
            raise _unauthenticated()
        key = stored.key
        tenant = await self._store.read("HGET", tenant_key(key.tenant_id), "record")
        if not isinstance(tenant, bytes):
            raise _unauthenticated()
        ancestors = tuple(each.key for each in await self._read(key.ancestors))
        if len(ancestors) != len(key.ancestors):
            raise Unauthenticated("the API key that made this one is gone: use another one")
        return Caller(tenant=parse_tenant(tenant), key=key, ancestors=ancestors)

    async def _log(self, action: str, key: ApiKey, by: Author, **details: str) -> None:
        await self._logs.of(key.tenant_id).record(deed(action, key.id, by, **details))

    async def _note_use(self, key: ApiKey) -> None:
        now = self._now()
        if key.last_used_at is not None and now - key.last_used_at < USED_EVERY_S:
            return
        try:
            await self._store.run(_USED, [api_key_key(key.id)], [repr(now)], is_idempotent=True)
        except StoreFailed as error:
            # A store that is full still answers, and who frees space there must get in.
            _log.warning("key_use_not_noted", key_id=key.id, reason=str(error))

    async def _ids(self, tenant_id: TenantId) -> list[KeyId]:
        ids = await self._store.read("ZRANGE", keys_of(tenant_id), 0, -1)
        assert isinstance(ids, list)
        return [KeyId(each.decode()) for each in ids if isinstance(each, bytes)]

    async def _read(self, ids: Sequence[KeyId]) -> list[StoredKey]:
        """Those that are there, in this order."""
        wanted = [each for each in ids if is_id(each, "key")]
        if not wanted:
            return []
        found = []
        for row in await self._store.read_many(
            [("HMGET", api_key_key(each), "record", "last_used") for each in wanted]
        ):
            match row:
                case [bytes(record), last_used]:
                    stored = _STORED.validate_json(record)
                    used = float(last_used) if isinstance(last_used, bytes) else None
                    found.append(replace(stored, key=replace(stored.key, last_used_at=used)))
                case _:
                    pass  # revoked, and its place was needed
        return found

    async def _change(
        self, key_id: KeyId, change: Callable[[StoredKey], StoredKey], more: Sequence[Part] = ()
    ) -> ApiKey:
        def changed(record: bytes) -> tuple[ApiKey, bytes, Sequence[Part]]:
            stored = change(_STORED.validate_json(record))
            return stored.key, _STORED.dump_json(stored), more

        key = await change_record(self._store, api_key_key(key_id), changed, lambda: _unknown(key_id))
        self._recent.clear()
        return key


def _in_words(key: ApiKey) -> dict[str, str]:
    """For the audit log."""
    return {"name": key.name, "scopes": " ".join(sorted(key.scopes)), **limits_in_words(key.limits)}


def _unauthenticated() -> Unauthenticated:
    return Unauthenticated("this needs a valid API key (Authorization: Bearer rlm_…): the operator makes them")


def _unknown(key_id: KeyId) -> NotFound:
    return NotFound(f"there is no API key {key_id[:64]}")
