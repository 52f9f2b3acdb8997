"""`/v1/models`: what a client can name as its model, in the shape of OpenAI's list and of Anthropic's at once."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path

from service.runs.answering.profiles import DIRECT_PREFIX, ProfileUnknown
from service.tenants.values import Scope
from service.web.callers import CallerOfRequest, RoomsOfService, RunsOfCaller
from service.web.dialects.allowing import may_name
from service.web.doors import open_router
from service.web.shapes import MAX_MODEL_CHARS, Shown, example

router = open_router(Scope.RUNS, tag="OpenAI dialect")

BORN = datetime(2026, 1, 1, tzinfo=UTC)
"""Clients want a date; profiles have none."""

_EXAMPLE: dict[str, Any] = {
    "id": "rlm/default",
    "object": "model",
    "type": "model",
    "display_name": "rlm/default",
    "created": 1767225600,
    "created_at": "2026-01-01T00:00:00+00:00",
    "owned_by": "rlm-service",
}


class ShownModel(Shown):
    """What a client can name as its model."""

    model_config = example(_EXAMPLE)

    id: str
    object: Literal["model"] = "model"
    type: Literal["model"] = "model"
    display_name: str
    created: int
    created_at: str
    owned_by: str = "rlm-service"


class ModelList(Shown):
    """All of them."""

    model_config = example(
        {"object": "list", "data": [_EXAMPLE], "has_more": False, "first_id": _EXAMPLE["id"], "last_id": _EXAMPLE["id"]}
    )

    object: Literal["list"] = "list"
    data: list[ShownModel]
    has_more: bool = False
    first_id: str | None
    last_id: str | None


@router.get("/v1/models", summary="List models")
async def list_models(caller: CallerOfRequest, rooms: RoomsOfService) -> ModelList:
    """Profiles, and the operator's own models behind `direct/`, as far as the key may name them or all that they stand
    for. Any other model that has a price can be named too."""
    names = [name for name in rooms.profiles.names if may_name(caller, name, rooms.profiles)]
    return ModelList(
        data=[shown_model(name) for name in names],
        first_id=names[0] if names else None,
        last_id=names[-1] if names else None,
    )


@router.get("/v1/models/{model:path}", summary="Show a model")
async def show_model(
    model: Annotated[str, Path(max_length=MAX_MODEL_CHARS, examples=["rlm/default"])],
    caller: CallerOfRequest,
    rooms: RoomsOfService,
    runs: RunsOfCaller,
) -> ShownModel:
    """As the list has it."""
    if model.startswith(DIRECT_PREFIX):
        await runs.rooms.route_to(model.removeprefix(DIRECT_PREFIX))
    else:
        rooms.profiles.get(model)
    if not may_name(caller, model, rooms.profiles):
        raise ProfileUnknown(f"there is no model {model!r} for this key", data={"param": "model"})
    return shown_model(model)


def shown_model(name: str) -> ShownModel:
    return ShownModel(id=name, display_name=name, created=int(BORN.timestamp()), created_at=BORN.isoformat())
