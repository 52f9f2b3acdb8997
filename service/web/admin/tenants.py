"""`/v1/admin/tenants`: made, listed, limited, suspended."""

from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field, StringConstraints

from service.ids import EMBEDDED_TENANT, TenantId
from service.tenants.values import MAX_NAME_CHARS, NO_LIMITS, Level, Scope, Tenant
from service.web.account.limits import EXAMPLE_OF_LIMITS, GivenLimits, ShownLimits, shown_limits
from service.web.account.standing import EXAMPLE_OF_BUDGET, ShownBudget, shown_budgets
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.openapi.refusals import refused_with
from service.web.paging import cursor_after, id_behind
from service.web.paths import TenantIdInPath
from service.web.shapes import MAX_CURSOR_CHARS, Shape, Shown, example

router = open_router(Scope.ADMIN, tag="admin")

TenantName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]

_EXAMPLE: dict[str, Any] = {
    "tenant_id": "ten_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "name": "Claims department",
    "state": "active",
    "created_at": 1763640000.0,
    "suspended_at": None,
    "limits": EXAMPLE_OF_LIMITS,
}


class GivenTenant(Shape):
    """A tenant to be made."""

    model_config = example({"name": "Claims department", "limits": {"usd_per_month": "500.00", "parallel_runs": 8}})

    name: TenantName
    limits: GivenLimits = Field(default_factory=GivenLimits)


class TenantChange(Shape):
    """What is to be different about a tenant. What is left out stays."""

    model_config = example({"limits": {"usd_per_month": "750.00", "parallel_runs": None}})

    name: TenantName | None = None
    limits: GivenLimits | None = None


class ShownTenant(Shown):
    """Who pays."""

    model_config = example(_EXAMPLE)

    tenant_id: str
    name: str
    state: Literal["active", "suspended", "erasing"]
    created_at: float
    suspended_at: float | None
    limits: ShownLimits


class TenantPage(Shown):
    """Tenants, the oldest first."""

    model_config = example({"tenants": [_EXAMPLE], "next_cursor": None})

    tenants: list[ShownTenant]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


class TenantBudget(Shown):
    """What a tenant has spent of this day and this month."""

    model_config = example({"budgets": [EXAMPLE_OF_BUDGET | {"level": "tenant", "owner": _EXAMPLE["tenant_id"]}]})

    budgets: list[ShownBudget]


@router.post("/v1/admin/tenants", status_code=201, summary="Make a tenant", responses=refused_with(409))
async def create(given: GivenTenant, caller: CallerOfRequest, rooms: RoomsOfService, response: Response) -> ShownTenant:
    """It has no keys yet: make one with `POST /v1/admin/tenants/{tenant_id}/keys`."""
    tenant = await rooms.registry.tenants.create(given.name, limits=given.limits.over(NO_LIMITS), by=caller)
    response.headers["location"] = f"/v1/admin/tenants/{tenant.id}"
    return _shown(tenant)


@router.get("/v1/admin/tenants", summary="List tenants")
async def list_tenants(
    rooms: RoomsOfService,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> TenantPage:
    """The oldest first, with their limits."""
    after = None if cursor is None else TenantId(id_behind(cursor, "ten", also=EMBEDDED_TENANT))
    found = await rooms.registry.tenants.page(after=after, limit=limit + 1)
    more = len(found) > limit
    return TenantPage(
        tenants=[_shown(tenant) for tenant in found[:limit]],
        next_cursor=cursor_after(found[limit - 1].id) if more else None,
    )


@router.get("/v1/admin/tenants/{tenant_id}", summary="Show a tenant")
async def show(tenant_id: TenantIdInPath, rooms: RoomsOfService) -> ShownTenant:
    """Its state and its limits."""
    return _shown(await rooms.registry.tenants.get(tenant_id))


@router.patch("/v1/admin/tenants/{tenant_id}", summary="Change a tenant")
async def change(
    tenant_id: TenantIdInPath, given: TenantChange, caller: CallerOfRequest, rooms: RoomsOfService
) -> ShownTenant:
    """Its name or its limits, its budgets per day and month among them; in force within about a second."""
    tenants = rooms.registry.tenants
    limits = None if given.limits is None else given.limits.over((await tenants.get(tenant_id)).limits)
    return _shown(await tenants.update(tenant_id, name=given.name, limits=limits, by=caller))


@router.post("/v1/admin/tenants/{tenant_id}/suspend", summary="Suspend a tenant", responses=refused_with(400))
async def suspend(tenant_id: TenantIdInPath, caller: CallerOfRequest, rooms: RoomsOfService) -> ShownTenant:
    """Its keys are refused and its runs make no more model calls, within about a second. May be repeated."""
    return _shown(await rooms.registry.tenants.suspend(tenant_id, by=caller))


@router.post("/v1/admin/tenants/{tenant_id}/resume", summary="End a tenant's suspension", responses=refused_with(400))
async def resume(tenant_id: TenantIdInPath, caller: CallerOfRequest, rooms: RoomsOfService) -> ShownTenant:
    """May be repeated."""
    return _shown(await rooms.registry.tenants.resume(tenant_id, by=caller))


@router.get("/v1/admin/tenants/{tenant_id}/budget", summary="Show what a tenant has spent")
async def budget(tenant_id: TenantIdInPath, rooms: RoomsOfService) -> TenantBudget:
    """Its limits are changed with `PATCH /v1/admin/tenants/{tenant_id}`."""
    tenant = await rooms.registry.tenants.get(tenant_id)
    ledger = rooms.tenancy.runs_of(tenant.id).rooms.ledger
    level = Level(kind="tenant", owner=tenant.id, limits=tenant.limits)
    return TenantBudget(budgets=await shown_budgets(ledger, (level,)))


def _shown(tenant: Tenant) -> ShownTenant:
    state: Literal["active", "suspended", "erasing"] = "active" if tenant.may_act else "suspended"
    return ShownTenant(
        tenant_id=tenant.id,
        name=tenant.name,
        state=state if tenant.erasing_since is None else "erasing",
        created_at=tenant.created_at,
        suspended_at=tenant.suspended_at,
        limits=shown_limits(tenant.limits),
    )
