"""`/v1/contexts/{context_id}`: what is stored, and its end."""

from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.contexts.shapes import ShownContext, shown_context
from service.web.doors import open_router
from service.web.paths import ContextIdInPath

router = open_router(Scope.CONTEXTS, tag="contexts")


@router.get("/v1/contexts/{context_id}", summary="Show a context")
async def show(context_id: ContextIdInPath, runs: RunsOfCaller) -> ShownContext:
    return shown_context(await runs.rooms.contexts.get(context_id))


@router.delete("/v1/contexts/{context_id}", status_code=204, summary="Delete a context")
async def delete(context_id: ContextIdInPath, runs: RunsOfCaller) -> None:
    """Runs that have begun with it go on; none can begin with it any more."""
    await runs.rooms.contexts.delete(context_id)
