"""`/v1/admin/tenants/{tenant_id}/erasure`: everything of a tenant goes, for good."""

from typing import Any, Literal

from fastapi import Response
from pydantic import Field

from service.money import NanoUSD
from service.runs.erasure.erasure import ErasureStanding
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.openapi.refusals import refused_with
from service.web.paths import TenantIdInPath
from service.web.shapes import Money, Shown, example, money

router = open_router(Scope.ADMIN, tag="admin")

_EXAMPLE: dict[str, Any] = {
    "tenant_id": "ten_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "status": "erased",
    "began_at": None,
    "erased_at": 1795174985.2,
    "runs": 12,
    "calls": 340,
    "spent_by_month": {"2026-11": {"usd": "1.25", "nano_usd": 1_250_000_000}},
}


class ShownErasure(Shown):
    """How far it is, and all that is kept of an erased tenant's use."""

    model_config = example(_EXAMPLE)

    tenant_id: str
    status: Literal["erasing", "erased"]
    began_at: float | None = Field(description="Null once it has ended.")
    erased_at: float | None = Field(description="When the figures were added up, which is before anything went.")
    runs: int | None
    calls: int | None
    spent_by_month: dict[str, Money] | None = Field(description="By month (UTC), such as `2026-11`.")


@router.post(
    "/v1/admin/tenants/{tenant_id}/erasure",
    status_code=202,
    summary="Erase a tenant, for good",
    responses={200: {"model": ShownErasure, "description": "It is erased already."}, **refused_with(400)},
)
async def erase(
    tenant_id: TenantIdInPath, caller: CallerOfRequest, rooms: RoomsOfService, response: Response
) -> ShownErasure:
    """Its keys are refused at once and for ever. The rest goes in the background, after unfinished runs have had a
    minute to end: `GET` tells how far it is. There is no way back. May be repeated."""
    standing = await rooms.erasure.begin(tenant_id, by=caller)
    response.status_code = 200 if standing.has_ended else 202
    response.headers["location"] = f"/v1/admin/tenants/{tenant_id}/erasure"
    return _shown(standing)


@router.get("/v1/admin/tenants/{tenant_id}/erasure", summary="Show how far an erasure is")
async def show(tenant_id: TenantIdInPath, rooms: RoomsOfService) -> ShownErasure:
    """Of a tenant that is erased too, of which its id and these figures are all that is left."""
    return _shown(await rooms.erasure.standing(tenant_id))


def _shown(standing: ErasureStanding) -> ShownErasure:
    figures = standing.figures
    return ShownErasure(
        tenant_id=standing.tenant_id,
        status="erased" if standing.has_ended else "erasing",
        began_at=standing.began_at,
        erased_at=None if figures is None else figures.erased_at,
        runs=None if figures is None else figures.runs,
        calls=None if figures is None else figures.calls,
        spent_by_month=None
        if figures is None
        else {month: money(NanoUSD(spent)) for month, spent in figures.nano_usd_by_month.items()},
    )
