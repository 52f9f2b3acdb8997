"""`/v1/provider-keys`: the tenant's own keys for model providers. They go in and are never shown again."""

from typing import Annotated, Any

from fastapi import Path
from pydantic import Field, StringConstraints

from service.tenants.provider_keys import LONGEST_KEY, SHORTEST_KEY, ProviderKey
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService
from service.web.doors import open_router
from service.web.shapes import Shape, Shown, example

router = open_router(Scope.KEYS, tag="provider keys")

_EXAMPLE: dict[str, Any] = {
    "provider": "openai",
    "last_four": "9fQx",
    "created_at": 1763640000.0,
    "by": "key_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
}

ProviderInPath = Annotated[
    str,
    Path(
        max_length=40,
        description="`openai`, `anthropic`, or LiteLLM's name of it (`gemini` for `litellm/gemini/…`).",
        examples=["openai"],
    ),
]


class GivenProviderKey(Shape):
    """A key that a model provider gave out."""

    model_config = example({"key": "sk-live-0123456789abcdef"})

    key: Annotated[str, StringConstraints(min_length=SHORTEST_KEY, max_length=LONGEST_KEY)] = Field(repr=False)


class ShownProviderKey(Shown):
    """What may be shown of a provider key."""

    model_config = example(_EXAMPLE)

    provider: str
    last_four: str
    created_at: float
    by: str = Field(description="The API key that left it, or `operator`.")


class ProviderKeyList(Shown):
    """The tenant's provider keys, by provider; there are at most 50."""

    model_config = example({"provider_keys": [_EXAMPLE]})

    provider_keys: list[ShownProviderKey]


@router.get("/v1/provider-keys", summary="List provider keys")
async def list_provider_keys(caller: CallerOfRequest, rooms: RoomsOfService) -> ProviderKeyList:
    """For which providers the tenant has left a key, and when; never the keys."""
    caller.require_whole_tenant()
    found = await rooms.registry.provider_keys_of(caller.tenant.id).shown()
    return ProviderKeyList(provider_keys=[_shown(each) for each in found])


@router.put("/v1/provider-keys/{provider}", summary="Leave a provider key")
async def put(
    provider: ProviderInPath, given: GivenProviderKey, caller: CallerOfRequest, rooms: RoomsOfService
) -> ShownProviderKey:
    """In place of the one before; it is kept encrypted. Runs that begin from now on call the provider with it, instead
    of the operator's."""
    caller.require_whole_tenant()
    return _shown(await rooms.registry.provider_keys_of(caller.tenant.id).put(provider, given.key, by=caller))


@router.delete("/v1/provider-keys/{provider}", status_code=204, summary="Forget a provider key")
async def delete(provider: ProviderInPath, caller: CallerOfRequest, rooms: RoomsOfService) -> None:
    """Runs that begin from now on call the provider with the operator's key, if there is one."""
    caller.require_whole_tenant()
    await rooms.registry.provider_keys_of(caller.tenant.id).delete(provider, by=caller)


def _shown(key: ProviderKey) -> ShownProviderKey:
    return ShownProviderKey(provider=key.provider, last_four=key.last_four, created_at=key.created_at, by=key.by)
