"""`/v1/contexts` and `/v1/contexts/{context_id}`: what is stored, and its end."""

from typing import Annotated

from fastapi import Query
from pydantic import Field

from service.contexts.redis_contexts import ContextOpen
from service.errors import NotFound
from service.ids import ContextId
from service.tenants.values import Scope
from service.web.callers import HoldingsOfCaller, RunsOfCaller
from service.web.contexts.shapes import EXAMPLE_OF_CONTEXT, ShownContext, shown_context, shown_open_context
from service.web.doors import open_router
from service.web.paging import cursor_after, id_behind
from service.web.paths import ContextIdInPath
from service.web.shapes import MAX_CURSOR_CHARS, Shown, example

router = open_router(Scope.CONTEXTS, tag="contexts")


class ContextPage(Shown):
    """Sealed contexts, the newest first."""

    model_config = example({"contexts": [EXAMPLE_OF_CONTEXT], "next_cursor": None})

    contexts: list[ShownContext]
    next_cursor: str | None = Field(description="`cursor` of the next page; null when this is the last one.")


@router.get("/v1/contexts", summary="List contexts")
async def list_contexts(
    runs: RunsOfCaller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> ContextPage:
    """Sealed ones, the newest first."""
    before = None if cursor is None else ContextId(id_behind(cursor, "ctx"))
    found = await runs.rooms.contexts.list(limit + 1, before)
    return ContextPage(
        contexts=[shown_context(each) for each in found[:limit]],
        next_cursor=cursor_after(found[limit - 1].context_id) if len(found) > limit else None,
    )


@router.get("/v1/contexts/{context_id}", summary="Show a context")
async def show(context_id: ContextIdInPath, runs: RunsOfCaller) -> ShownContext:
    """What it is, not what is in it."""
    try:
        return shown_context(await runs.rooms.contexts.get(context_id))
    except ContextOpen:
        return shown_open_context(await runs.rooms.open_contexts.get(context_id))


@router.delete("/v1/contexts/{context_id}", status_code=204, summary="Delete a context")
async def delete(context_id: ContextIdInPath, runs: RunsOfCaller, holdings: HoldingsOfCaller) -> None:
    """Runs that have begun with it go on; none can begin with it any more."""
    try:
        await runs.rooms.contexts.delete(context_id)
    except ContextOpen:
        try:
            await runs.rooms.open_contexts.delete(context_id)
        except NotFound:
            await runs.rooms.contexts.delete(context_id)  # sealed meanwhile
    await holdings.drop_context(context_id)
