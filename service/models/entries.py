"""What an operator says about a model: one entry of the configuration file, as data."""

from dataclasses import dataclass
from enum import StrEnum

from service.models.prices import Price


class Api(StrEnum):
    """How a provider is spoken to."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    LITELLM = "litellm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One entry. None leaves a field to the model's name and the published map."""

    window_tokens: int | None = None
    max_output_tokens: int | None = None
    may_reason: bool | None = None
    price: Price | None = None
    upstream: str | None = None
    base_url: str | None = None
    api: Api | None = None
    api_key_env: str | None = None
    """The variable that holds the key for this model's provider."""
    direct_below_tokens: int | None = None
    """Instead of the threshold of a profile that answers small questions by one direct call."""
    fallbacks: tuple[str, ...] = ()
    """Names of models to ask, in this order, when this one is unavailable."""
