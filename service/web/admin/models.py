"""`/v1/admin/models`: which models the operator configured, and what a call of any model would cost."""

from typing import Annotated, Any

from fastapi import Path
from pydantic import Field

from service.models.catalog import LONGEST_NAME, DescribedModel
from service.models.prices import Rates
from service.tenants.values import Scope
from service.web.callers import RunsOfCaller
from service.web.doors import open_router
from service.web.shapes import Shown, example

router = open_router(Scope.ADMIN, tag="admin")

_RATES: dict[str, Any] = {
    "input": 250_000_000,
    "cached_input": 25_000_000,
    "cache_write": 250_000_000,
    "output": 2_000_000_000,
}


class ShownRates(Shown):
    """Whole nano-USD per million tokens."""

    input: int
    cached_input: int
    cache_write: int
    output: int = Field(description="Reasoning included.")


class ShownTier(ShownRates):
    """Rates for the whole of a call whose input is longer."""

    above_input_tokens: int


class ShownModelRoute(Shown):
    """How a model is called, and what that costs."""

    model_config = example(
        {
            "name": "openai/gpt-5-mini",
            "provider": "api.openai.com",
            "upstream_model": "gpt-5-mini",
            "window_tokens": 272_000,
            "max_output_tokens": 128_000,
            "may_reason": True,
            "rates": _RATES,
            "tiers": [],
            "fallbacks": [],
        }
    )

    name: str
    provider: str = Field(description="What fails together: a host, or what else stands behind the name.")
    upstream_model: str = Field(description="As the provider calls it.")
    window_tokens: int
    max_output_tokens: int
    may_reason: bool
    rates: ShownRates
    tiers: list[ShownTier] = Field(description="Dearer rates for long inputs, in ascending order.")
    fallbacks: list[str] = Field(description="What is asked instead while this one is unavailable, in this order.")


class ConfiguredModels(Shown):
    """The models that the configuration file (`RLM_CONFIG`) names."""

    model_config = example({"models": ["local/qwen3"]})

    models: list[str]


@router.get("/v1/admin/models", summary="List the configured models")
async def list_models(runs: RunsOfCaller) -> ConfiguredModels:
    """More can be called than are configured: whatever has a published price. `GET /v1/admin/models/{name}` says of any
    name what it leads to."""
    return ConfiguredModels(models=sorted(runs.rooms.catalog.configured_names))


@router.get("/v1/admin/models/{name:path}", summary="Show a model and its price")
async def show(
    name: Annotated[
        str,
        Path(min_length=1, max_length=LONGEST_NAME, description="As runs name it.", examples=["openai/gpt-5-mini"]),
    ],
    runs: RunsOfCaller,
) -> ShownModelRoute:
    """As it would be called; whether there is a key for its provider is not looked at."""
    return _shown(runs.rooms.catalog.describe(name))


def _shown(model: DescribedModel) -> ShownModelRoute:
    return ShownModelRoute(
        name=model.name,
        provider=model.provider,
        upstream_model=model.upstream_model,
        window_tokens=model.card.window_tokens,
        max_output_tokens=model.card.max_output_tokens,
        may_reason=model.card.may_reason,
        rates=ShownRates.model_validate(_figures(model.price)),
        tiers=[
            ShownTier.model_validate({"above_input_tokens": tier.above_input_tokens, **_figures(tier.rates)})
            for tier in model.price.tiers
        ],
        fallbacks=list(model.fallbacks),
    )


def _figures(rates: Rates) -> dict[str, int]:
    return {
        "input": rates.input,
        "cached_input": rates.cached_input,
        "cache_write": rates.cache_write,
        "output": rates.output,
    }
