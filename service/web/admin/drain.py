"""`POST /v1/admin/drain`: tell the replica that answers to end in good order."""

from typing import Literal

from pydantic import Field

from service.tenants.audit import OPERATORS_CHAIN, deed
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService, RunsOfCaller
from service.web.doors import open_router
from service.web.shapes import Shown, example

router = open_router(Scope.ADMIN, tag="admin")


class Draining(Shown):
    """The replica is about to end."""

    model_config = example({"status": "draining", "replica": "rep_0198c2f0a7b87cc2b1a8f2c3d4e5f607"})

    status: Literal["draining"] = "draining"
    replica: str = Field(description="Which one it is.")


@router.post("/v1/admin/drain", status_code=202, summary="End this replica in good order")
async def drain(caller: CallerOfRequest, rooms: RoomsOfService, runs: RunsOfCaller) -> Draining:
    """As SIGTERM does: it is not ready any more, takes no more connections, lets requests under way end, hands its runs
    over and exits. Meant for one replica: behind a balancer nobody can say which one answers. May be repeated."""
    replica = runs.rooms.leases.replica
    if not rooms.drain.was_asked:
        await rooms.registry.logs.of(OPERATORS_CHAIN).record(deed("replica.drained", replica, caller))
        rooms.drain.ask()
    return Draining(replica=replica)
