"""The tenants of this installation: made, listed, limited, suspended. Their erasure is `runs.erasure`."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog
from pydantic import TypeAdapter, ValidationError

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, TenantId, is_id, new_id
from service.store.connection import Part, Store
from service.store.erasing import DEFAULT_STAYS
from service.store.errors import RecordUnreadable, TenantErased
from service.store.scripts import load_script
from service.tenants.audit import OPERATORS_CHAIN, AuditLogs, deed
from service.tenants.errors import SoleTenantServed
from service.tenants.records import SOLE_TENANCIES, TENANTS, change_record, keys_of, tenant_key
from service.tenants.values import (
    NO_LIMITS,
    Author,
    CallerLimits,
    Tenant,
    check_limits,
    check_name,
    limits_in_words,
)

MOST_LISTED = 1000

_CREATE = load_script("service.tenants", "create_tenant.lua")
_TENANT = TypeAdapter(Tenant)

_log = structlog.get_logger(__name__)


class Tenants:
    """Only the operator's business: callers of this class have checked that it is the operator who asks."""

    def __init__(self, store: Store, logs: AuditLogs, now: Callable[[], float]) -> None:
        self._store = store
        self._logs = logs
        self._now = now

    async def create(self, name: str, *, limits: CallerLimits = NO_LIMITS, by: Author) -> Tenant:
        """A new tenant, without keys.

        Raises:
            BadRequest: the name or a limit cannot be used.
            SoleTenantServed: a replica serves, and its sandboxes are not good enough for a second tenant.
        """
        tenant = Tenant(
            id=TenantId(new_id("ten")), name=check_name(name), created_at=self._now(), limits=check_limits(limits)
        )
        await self._make(tenant)
        await self._log("tenant.created", tenant, by)
        return tenant

    async def ensure_default(self) -> Tenant:
        """The tenant that the command line asks for; made when it is not there. Race-free."""
        await self._make(default_tenant(self._now()))
        return await self.get(EMBEDDED_TENANT)

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Raises `NotFound`."""
        record = await self._store.read("HGET", tenant_key(_checked(tenant_id)), "record")
        if not isinstance(record, bytes):
            raise _unknown(tenant_id)
        return parse_tenant(record)

    async def page(self, *, after: TenantId | None = None, limit: int = 100) -> list[Tenant]:
        """The oldest first; `after` is the last of the page before.

        Raises:
            BadRequest: more than `MOST_LISTED` were asked for.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise BadRequest(f"a page holds 1 to {MOST_LISTED} tenants, found {limit}")
        start = 0
        if after is not None:
            rank = await self._store.read("ZRANK", TENANTS, _checked(after))
            if not isinstance(rank, int):
                raise _unknown(after)
            start = rank + 1
        ids = await self._store.read("ZRANGE", TENANTS, start, start + limit - 1)
        assert isinstance(ids, list)
        found = [TenantId(each.decode()) for each in ids if isinstance(each, bytes)]
        if not found:
            return []
        records = await self._store.read_many([("HGET", tenant_key(each), "record") for each in found])
        return [parse_tenant(record) for record in records if isinstance(record, bytes)]

    async def that_stay(self) -> list[TenantId]:
        """All but those that are being erased, whatever else they may do. One whose record cannot be read is left out,
        and logged."""
        return [tenant.id for tenant in await self._all() if tenant.erasing_since is None]

    async def being_erased(self) -> list[TenantId]:
        """Those whose erasure has begun and has not ended. One whose record cannot be read is left out, and logged."""
        return [tenant.id for tenant in await self._all() if tenant.erasing_since is not None]

    async def _all(self) -> list[Tenant]:
        ids = await self._store.read("ZRANGE", TENANTS, 0, -1)
        assert isinstance(ids, list)
        found = [TenantId(each.decode()) for each in ids if isinstance(each, bytes)]
        tenants: list[Tenant] = []
        for start in range(0, len(found), MOST_LISTED):
            some = found[start : start + MOST_LISTED]
            records = await self._store.read_many([("HGET", tenant_key(each), "record") for each in some])
            for tenant_id, record in zip(some, records, strict=True):
                try:
                    if isinstance(record, bytes):
                        tenants.append(parse_tenant(record))
                except RecordUnreadable as exc:
                    _log.error("tenant_unreadable", tenant_id=tenant_id, error=str(exc))
        return tenants

    async def update(
        self, tenant_id: TenantId, *, name: str | None = None, limits: CallerLimits | None = None, by: Author
    ) -> Tenant:
        """Another name or other limits; what is left out stays. In force within about a second.

        Raises:
            NotFound: no such tenant.
            BadRequest: the name or a limit cannot be used.
        """
        checked_name = None if name is None else check_name(name)
        checked_limits = None if limits is None else check_limits(limits)
        tenant = await self._change(
            tenant_id,
            lambda tenant: replace(
                tenant,
                name=tenant.name if checked_name is None else checked_name,
                limits=tenant.limits if checked_limits is None else checked_limits,
            ),
        )
        await self._log("tenant.changed", tenant, by, **limits_in_words(tenant.limits))
        return tenant

    async def suspend(self, tenant_id: TenantId, *, by: Author) -> Tenant:
        """Refuse its keys from now on, and let its runs spend nothing more. Idempotent. Raises `NotFound`."""
        at = self._now()
        tenant = await self._change(tenant_id, lambda tenant: replace(tenant, suspended_at=tenant.suspended_at or at))
        await self._log("tenant.suspended", tenant, by)
        return tenant

    async def resume(self, tenant_id: TenantId, *, by: Author) -> Tenant:
        """End a suspension. Idempotent.

        Raises:
            NotFound: no such tenant.
            BadRequest: it is being erased.
        """

        def resumed(tenant: Tenant) -> Tenant:
            if tenant.erasing_since is not None:
                raise BadRequest(f"{tenant_id} is being erased: there is no way back")
            return replace(tenant, suspended_at=None)

        tenant = await self._change(tenant_id, resumed)
        await self._log("tenant.resumed", tenant, by)
        return tenant

    async def begin_erasure(self, tenant_id: TenantId, *, by: Author) -> Tenant:
        """No key of it works and none can be made from now on. Idempotent; logged when it begins.

        Raises:
            NotFound: no such tenant.
            BadRequest: it is the tenant `default`.
        """
        if tenant_id == EMBEDDED_TENANT:
            raise BadRequest(DEFAULT_STAYS)
        has_begun = (await self.get(tenant_id)).erasing_since is not None
        at = self._now()
        tenant = await self._change(tenant_id, lambda tenant: replace(tenant, erasing_since=tenant.erasing_since or at))
        if not has_begun:
            await self._log("tenant.erasure_began", tenant, by)
        return tenant

    async def strip(self, tenant_id: TenantId) -> None:
        """For one that is being erased: leave nothing in its record but its id and when it was made and its erasure
        began. Idempotent. Raises `NotFound`."""

        def stripped(tenant: Tenant) -> Tenant:
            return Tenant(
                id=tenant.id, name=tenant.id, created_at=tenant.created_at, erasing_since=tenant.erasing_since
            )

        await self._change(tenant_id, stripped)

    async def forget(self, tenant_id: TenantId, *, by: Author) -> None:
        """The last step of an erasure: the record itself, and the tenant's chain. Idempotent."""
        await self._logs.of(OPERATORS_CHAIN).record(deed("tenant.erased", tenant_id, by))
        await self._store.write_many(
            [("ZREM", TENANTS, tenant_id), ("DEL", tenant_key(_checked(tenant_id)), keys_of(tenant_id))]
        )

    async def _log(self, action: str, tenant: Tenant, by: Author, **details: str) -> None:
        """For the tenant to see, and for good."""
        done = deed(action, tenant.id, by, **details)
        with suppress(TenantErased):  # an erasure that is asked for again finds the tenant's own chain gone
            await self._logs.of(tenant.id).record(done)
        await self._logs.of(OPERATORS_CHAIN).record(done)

    async def _make(self, tenant: Tenant) -> bool:
        arguments: list[Part] = [tenant.id, repr(tenant.created_at), _TENANT.dump_json(tenant)]
        keys = [tenant_key(tenant.id), TENANTS, SOLE_TENANCIES]
        reply = await self._store.run(_CREATE, keys, arguments, is_idempotent=True)
        if reply == b"alone":
            raise SoleTenantServed(
                "a service is running whose sandboxes do not keep tenants apart, so it serves one tenant only: stop "
                "it, start it with RLM_SANDBOX=docker and RLM_DOCKER_RUNTIME=runsc (docs/security.md), and try again"
            )
        return reply == b"made"

    async def _change(self, tenant_id: TenantId, change: Callable[[Tenant], Tenant]) -> Tenant:
        def changed(record: bytes) -> tuple[Tenant, bytes, list[str]]:
            tenant = change(parse_tenant(record))
            more = [] if tenant.erasing_since is None else ["erasing", "1"]
            return tenant, _TENANT.dump_json(tenant), more

        found = await change_record(self._store, tenant_key(_checked(tenant_id)), changed, lambda: _unknown(tenant_id))
        assert found is not None, "a change of a tenant always gives a tenant"
        return found


def default_tenant(now: float) -> Tenant:
    return Tenant(id=EMBEDDED_TENANT, name="default", created_at=now)


def parse_tenant(record: bytes) -> Tenant:
    """Raises `RecordUnreadable`."""
    try:
        return _TENANT.validate_json(record)
    except ValidationError as exc:
        raise RecordUnreadable(f"the record of a tenant cannot be read ({exc.error_count()} errors)") from exc


def dump_tenant(tenant: Tenant) -> bytes:
    return _TENANT.dump_json(tenant)


def _checked(tenant_id: TenantId) -> TenantId:
    if tenant_id != EMBEDDED_TENANT and not is_id(tenant_id, "ten"):
        raise _unknown(tenant_id)
    return tenant_id


def _unknown(tenant_id: TenantId) -> NotFound:
    return NotFound(f"there is no tenant {tenant_id[:64]}")
