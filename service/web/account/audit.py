"""`/v1/audit`: who changed what of the tenant."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from service.tenants.audit import AuditLog, AuditRecord
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.shapes import Shown, example

router = open_router(Scope.KEYS, tag="audit")

MAX_NUMBER = 2**53 - 1
_EXAMPLE: dict[str, Any] = {
    "number": 12,
    "at": 1763640000.0,
    "action": "key.created",
    "target": "key_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "by": "operator",
    "request_id": None,
    "details": {"name": "nightly reports", "scopes": "contexts runs"},
    "digest": "5d1c3f6b0a9e8d7c6b5a49382716f5e4d3c2b1a09f8e7d6c5b4a392817061524",
}

AfterNumber = Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Records behind this number.")]
MostRecords = Annotated[int, Query(ge=1, le=1000)]


class ShownAuditRecord(Shown):
    """What somebody did, in its place in the chain."""

    model_config = example(_EXAMPLE)

    number: int
    at: float
    action: str
    target: str = Field(description="What it was done to.")
    by: str = Field(description="An API key, or `operator`.")
    request_id: str | None
    details: dict[str, str]
    digest: str = Field(description="Over this record and the digest before it.")


class AuditPage(Shown):
    """Records in their order."""

    model_config = example({"records": [_EXAMPLE], "next_after": 12, "is_complete": True})

    records: list[ShownAuditRecord]
    next_after: int = Field(description="`after` of the next page.")
    is_complete: bool = Field(description="Whether there is nothing behind these (yet).")


class AuditVerdict(Shown):
    """Whether the chain is whole."""

    model_config = example({"is_whole": True, "records": 12, "broken_at": None, "last_digest": _EXAMPLE["digest"]})

    is_whole: bool
    records: int = Field(description="That were looked at.")
    broken_at: int | None = Field(description="The first number that does not follow from what is before it.")
    last_digest: str = Field(description="Keep it elsewhere to notice later that the end was cut off; empty for none.")


@router.get("/v1/audit", summary="Read the audit log")
async def read(
    caller: CallerOfRequest, rooms: RoomsOfService, after: AfterNumber = 0, limit: MostRecords = 100
) -> AuditPage:
    """The oldest first. Needs a key that no other key made."""
    caller.require_whole_tenant()
    return await audit_page(rooms.registry.logs.of(caller.tenant.id), after, limit)


@router.get("/v1/audit/verdict", summary="Verify the audit log")
async def verify(caller: CallerOfRequest, rooms: RoomsOfService) -> AuditVerdict:
    """Looks at every record that is kept, and says whether one was changed, left out or inserted."""
    caller.require_whole_tenant()
    return await audit_verdict(rooms.registry.logs.of(caller.tenant.id))


async def audit_page(log: AuditLog, after: int, limit: int) -> AuditPage:
    found = await log.page(after=after, limit=limit)
    return AuditPage(
        records=[_shown(record) for record in found],
        next_after=found[-1].number if found else after,
        is_complete=len(found) < limit,
    )


async def audit_verdict(log: AuditLog) -> AuditVerdict:
    verdict = await log.verify()
    return AuditVerdict(
        is_whole=verdict.broken_at is None,
        records=verdict.records,
        broken_at=verdict.broken_at,
        last_digest=verdict.last_digest,
    )


def _shown(record: AuditRecord) -> ShownAuditRecord:
    deed = record.deed
    return ShownAuditRecord(
        number=record.number,
        at=record.at,
        action=deed.action,
        target=deed.target,
        by=deed.by,
        request_id=deed.request_id,
        details=dict(deed.details),
        digest=record.digest,
    )
