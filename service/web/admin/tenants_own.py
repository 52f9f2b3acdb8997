"""What belongs to one tenant, as the operator sees it: its keys, what it spent, its audit log."""

from typing import Annotated

from fastapi import Query, Response

from service.tenants.audit import OPERATORS_CHAIN
from service.tenants.values import Scope
from service.web.account.audit import (
    AfterNumber,
    AuditPage,
    AuditVerdict,
    MostRecords,
    audit_page,
    audit_verdict,
)
from service.web.account.key_shapes import GivenKey, KeyPage, ShownIssuedKey, key_page, shown_issued_key
from service.web.account.usage import UsageAskedInQuery, UsageReport, usage_report
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.paging import cursor_after, id_behind
from service.web.paths import TenantIdInPath
from service.web.shapes import MAX_CURSOR_CHARS

router = open_router(Scope.ADMIN, tag="admin")


@router.post("/v1/admin/tenants/{tenant_id}/keys", status_code=201, summary="Make an API key of a tenant")
async def create_key(
    tenant_id: TenantIdInPath, given: GivenKey, caller: CallerOfRequest, rooms: RoomsOfService, response: Response
) -> ShownIssuedKey:
    """Its secret is shown in this response and never again. `/v1/keys/{key_id}` shows, changes, rotates and
    revokes it."""
    issued = await rooms.registry.api_keys.create(tenant_id, given.request(), by=caller)
    response.headers["location"] = f"/v1/keys/{issued.key.id}"
    return shown_issued_key(issued, rooms.now())


@router.get("/v1/admin/tenants/{tenant_id}/keys", summary="List the API keys of a tenant")
async def list_keys(
    tenant_id: TenantIdInPath,
    caller: CallerOfRequest,
    rooms: RoomsOfService,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> KeyPage:
    """The oldest first, without their secrets."""
    after = None if cursor is None else id_behind(cursor, "key")
    tenant = await rooms.registry.tenants.get(tenant_id)
    page, last = key_page(await rooms.registry.api_keys.of_tenant(tenant.id, by=caller), after, limit, rooms.now())
    return KeyPage(keys=page, next_cursor=None if last is None else cursor_after(last))


@router.get("/v1/admin/tenants/{tenant_id}/usage", summary="Report what a tenant spent")
async def usage(tenant_id: TenantIdInPath, asked: UsageAskedInQuery, rooms: RoomsOfService) -> UsageReport:
    """By day, model, key or session, as the tenant itself may ask."""
    tenant = await rooms.registry.tenants.get(tenant_id)
    return await usage_report(rooms.tenancy.runs_of(tenant.id).rooms.ledger, asked, rooms.now())


@router.get("/v1/admin/tenants/{tenant_id}/audit", summary="Read a tenant's audit log")
async def tenant_audit(
    tenant_id: TenantIdInPath, rooms: RoomsOfService, after: AfterNumber = 0, limit: MostRecords = 100
) -> AuditPage:
    """What was done to the tenant and by whom, the oldest first."""
    tenant = await rooms.registry.tenants.get(tenant_id)
    return await audit_page(rooms.registry.logs.of(tenant.id), after, limit)


@router.get("/v1/admin/tenants/{tenant_id}/audit/verdict", summary="Verify a tenant's audit log")
async def tenant_verdict(tenant_id: TenantIdInPath, rooms: RoomsOfService) -> AuditVerdict:
    """Whether the chain of its records is whole, and if not, from where on."""
    tenant = await rooms.registry.tenants.get(tenant_id)
    return await audit_verdict(rooms.registry.logs.of(tenant.id))


@router.get("/v1/admin/audit", summary="Read the operator's audit log")
async def operators_audit(rooms: RoomsOfService, after: AfterNumber = 0, limit: MostRecords = 100) -> AuditPage:
    """What was done to tenants as a whole, erased ones too, and to this service."""
    return await audit_page(rooms.registry.logs.of(OPERATORS_CHAIN), after, limit)


@router.get("/v1/admin/audit/verdict", summary="Verify the operator's audit log")
async def operators_verdict(rooms: RoomsOfService) -> AuditVerdict:
    """Whether the chain of its records is whole, and if not, from where on."""
    return await audit_verdict(rooms.registry.logs.of(OPERATORS_CHAIN))
