"""`doctor` on providers and models: where they are, which keys are set, what can be called. Keys are never shown."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from service.cli.counts import counted
from service.cli.findings import Finding, State, broken
from service.configuration.file import Configuration, read_configuration
from service.errors import RlmServiceError
from service.models.catalog import Catalog, Route
from service.models.litellm_bridge.process import LiteLLMProcess
from service.models.port import ModelCallFailed
from service.models.providers import ANTHROPIC_HOST, OPENAI_HOST
from service.models.scripted.script import PREFIX as SCRIPTED_PREFIX
from service.money import NanoUSD, format_usd
from service.settings import Settings
from service.wiring.models import open_catalog

EXAMPLE_MODELS = ("scripted/root", "openai/gpt-5-mini", "anthropic/claude-sonnet-4-5")
"""Whether a kind of provider can be used at all shows with any model of its."""
MOST_LISTED = 50


async def models_findings(settings: Settings) -> list[Finding]:
    """Everything about models. No model is called."""
    try:
        configuration = read_configuration(settings.config_file)
        catalog = open_catalog(settings, configuration)
    except RlmServiceError as error:
        return [broken("models", error)]
    async with catalog:
        return [
            *_configuration(configuration),
            *_providers(settings),
            await _litellm(settings, catalog.providers.litellm),
            *_models(catalog, configuration),
        ]


def _configuration(configuration: Configuration) -> Iterator[Finding]:
    if configuration.path is None:
        return
    what = (
        f"{counted(len(configuration.models), 'model')}, {counted(len(configuration.profiles), 'profile')}, "
        f"{counted(len(configuration.prompt_packs), 'prompt pack')}"
    )
    yield Finding(subject="configuration", state=State.OK, text=f"{configuration.path}: {what}")


def _providers(settings: Settings) -> Iterator[Finding]:
    for name, base_url, host, key in (
        ("openai", settings.openai_base_url, OPENAI_HOST, settings.openai_api_key),
        ("anthropic", settings.anthropic_base_url, ANTHROPIC_HOST, settings.anthropic_api_key),
    ):
        is_wanting = key is None and urlsplit(base_url).hostname == host
        is_set = "is set" if key else "is not set"
        yield Finding(
            subject=f"provider {name}",
            state=State.MISSING if is_wanting else State.OK,
            text=f"{_without_credentials(base_url)}; {name.upper()}_API_KEY {is_set}",
        )


async def _litellm(settings: Settings, process: LiteLLMProcess) -> Finding:
    """Whether its process can be started, and whose keys it would be given."""
    try:
        version = await process.started()
    except ModelCallFailed as failed:
        return Finding(subject="provider litellm", state=State.MISSING, text=failed.message)
    keys = sorted(name for name, value in settings.environment.items() if name.endswith("_API_KEY") and value)
    return Finding(
        subject="provider litellm",
        state=State.OK,
        text=f"LiteLLM {version} starts in a process of its own; for litellm/PROVIDER/MODEL",
        details=(f"keys that are set: {', '.join(keys)}",) if keys else (),
    )


def _models(catalog: Catalog, configuration: Configuration) -> Iterator[Finding]:
    for name in (*EXAMPLE_MODELS, *sorted(configuration.models)[:MOST_LISTED]):
        try:
            route = catalog.resolve(name)
        except RlmServiceError as error:
            yield Finding(subject=f"model {name}", state=State.MISSING, text=str(error))
            continue
        price = f"{_per_million(route.price.input)} in, {_per_million(route.price.output)} out"
        text = f"{_how_far(route)}; window {route.card.window_tokens:,} tokens, {price} per million tokens"
        onward = ", ".join(fallback.name for fallback in route.fallbacks)
        details = (f"falls back to {onward}",) if onward else ()
        yield Finding(subject=f"model {name}", state=State.OK, text=text, details=details)


def _how_far(route: Route) -> str:
    """What is known of it without calling it."""
    if route.name.startswith(SCRIPTED_PREFIX):
        return "shipped"
    if route.may_want_credentials:
        return "known; whether LiteLLM finds the credentials that its provider may want shows in its first call"
    return "can be called (was not)"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _per_million(price: int) -> str:
    return format_usd(NanoUSD(price))
