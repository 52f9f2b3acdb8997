"""`/v1/keys`: a tenant's API keys. A key sees itself and what it made; with the scope `admin`, every key."""

from typing import Annotated

from fastapi import Query, Response

from service.tenants.values import Scope
from service.web.account.key_shapes import (
    AT_ONCE,
    GivenKey,
    KeyChange,
    KeyPage,
    Rotation,
    ShownIssuedKey,
    ShownKey,
    key_page,
    shown_issued_key,
    shown_key,
)
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.paging import cursor_after, id_behind
from service.web.paths import KeyIdInPath
from service.web.shapes import MAX_CURSOR_CHARS

router = open_router(Scope.KEYS, tag="keys")


@router.post("/v1/keys", status_code=201, summary="Make an API key")
async def create(given: GivenKey, caller: CallerOfRequest, rooms: RoomsOfService, response: Response) -> ShownIssuedKey:
    """Its secret is shown in this response and never again. It can do no more than the key that makes it, counts
    against that key's limits too, and ends with it."""
    issued = await rooms.registry.api_keys.create(caller.tenant.id, given.request(), by=caller)
    response.headers["location"] = f"/v1/keys/{issued.key.id}"
    return shown_issued_key(issued, rooms.now())


@router.get("/v1/keys", summary="List API keys")
async def list_keys(
    caller: CallerOfRequest,
    rooms: RoomsOfService,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)] = None,
) -> KeyPage:
    """The tenant's, the oldest first, without their secrets."""
    after = None if cursor is None else id_behind(cursor, "key")
    keys = await rooms.registry.api_keys.of_tenant(caller.tenant.id, by=caller)
    page, last = key_page(keys, after, limit, rooms.now())
    return KeyPage(keys=page, next_cursor=None if last is None else cursor_after(last))


@router.get("/v1/keys/{key_id}", summary="Show an API key")
async def show(key_id: KeyIdInPath, caller: CallerOfRequest, rooms: RoomsOfService) -> ShownKey:
    """Without its secret, which nobody can show again."""
    return shown_key(await rooms.registry.api_keys.get(key_id, by=caller), rooms.now())


@router.patch("/v1/keys/{key_id}", summary="Change an API key")
async def change(key_id: KeyIdInPath, given: KeyChange, caller: CallerOfRequest, rooms: RoomsOfService) -> ShownKey:
    """Its name or its limits, in force within about a second. Scopes and models stay: make another key for others."""
    api_keys = rooms.registry.api_keys
    limits = given.limits
    found = None if limits is None else limits.over((await api_keys.get(key_id, by=caller)).limits)
    return shown_key(await api_keys.update(key_id, by=caller, name=given.name, limits=found), rooms.now())


@router.post("/v1/keys/{key_id}/rotate", summary="Give an API key a new secret")
async def rotate(
    key_id: KeyIdInPath, caller: CallerOfRequest, rooms: RoomsOfService, given: Rotation = AT_ONCE
) -> ShownIssuedKey:
    """The new secret is shown in this response and never again; the old one works for another `overlap_s`. Limits, and
    what was spent of them, stay. Without a body the old secret ends at once."""
    issued = await rooms.registry.api_keys.rotate(key_id, overlap_s=given.overlap_s, by=caller)
    return shown_issued_key(issued, rooms.now())


@router.post("/v1/keys/{key_id}/revoke", summary="End an API key")
async def revoke(key_id: KeyIdInPath, caller: CallerOfRequest, rooms: RoomsOfService) -> ShownKey:
    """For good, with every key that it made, within about a second. May be repeated."""
    return shown_key(await rooms.registry.api_keys.revoke(key_id, by=caller), rooms.now())
