"""Where a model's name leads: the protocol, the model there, and under which names its price is published. Pure."""

from dataclasses import dataclass

from service.models.entries import Api

OPENAI_PREFIX = "openai/"
_MAP_PREFIXES = {
    "openrouter.ai": "openrouter/",
    "api.groq.com": "groq/",
    "api.together.xyz": "together_ai/",
    "api.deepseek.com": "deepseek/",
    "api.mistral.ai": "mistral/",
    "api.fireworks.ai": "fireworks_ai/",
    "api.x.ai": "xai/",
    "api.cerebras.ai": "cerebras/",
    "api.deepinfra.com": "deepinfra/",
}
"""Under which prefix the published map lists a host's own prices for models that others serve too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which protocol, and the model's name there."""

    api: Api
    model: str
    """In the provider's own words."""
    litellm_provider: str = ""


def published_names(target: Target, host: str) -> tuple[str, ...]:
    """Where the map may have it, most telling first: as this provider sells it, bare, with OpenAI's prefix."""
    match target.api:
        case Api.OPENAI:
            host_prefix = _MAP_PREFIXES.get(host, "")
            return (f"{host_prefix}{target.model}", target.model, f"{OPENAI_PREFIX}{target.model}")
        case Api.ANTHROPIC:
            return (target.model, f"anthropic/{target.model}")
        case Api.LITELLM:
            return (f"{target.litellm_provider}/{target.model}", target.model)


def seller_of(target: Target) -> str | None:
    """Whose prices count; for servers of OpenAI's protocol, anybody's under the names above."""
    match target.api:
        case Api.OPENAI:
            return None
        case Api.ANTHROPIC:
            return "anthropic"
        case Api.LITELLM:
            return target.litellm_provider
