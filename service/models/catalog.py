"""The catalog: from a model's name to everything that is needed to call it and to pay for it.

    scripted/STRATEGY[?OPTIONS]   the shipped deterministic model; needs no key, no network, no price file
    NAME in the models file       as its entry says
    openai/MODEL, or MODEL        the OpenAI-compatible provider at OPENAI_BASE_URL

A model without a price is refused, because a budget could not be kept. A price of 0 is a price, but only an operator
can say so.
"""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from service.errors import BadRequest, Fault, RlmServiceError
from service.models.models_file import read_models_file
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.port import ModelAdapter, ModelCard
from service.models.price_book import DEFAULT_OUTPUT_TOKENS, BookedModel, PriceBook
from service.models.prices import Price
from service.models.scripted import adapter as scripted
from service.models.scripted.script import PREFIX as SCRIPTED_PREFIX
from service.models.scripted.script import Script, ScriptUnknown, parse_script

OPENAI_PREFIX = "openai/"
OPENAI_HOST = "api.openai.com"
LONGEST_NAME = 200
DEFAULT_WINDOW_TOKENS = 8192
"""For a priced model whose window nobody has published: small, so that what is planned fits."""

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


class UnknownModel(RlmServiceError):
    """The name leads to no provider; the message suggests names that do."""

    code = "unknown_model"
    fault = Fault.CALLER


class UnpricedModel(RlmServiceError):
    """The model has no price, so no budget could hold; the message shows the lines that give it one."""

    code = "unpriced_model"
    fault = Fault.POLICY


class MissingApiKey(RlmServiceError):
    """The provider wants a key and none is configured; the message names the variable."""

    code = "missing_api_key"
    fault = Fault.PLATFORM


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to call one model, and what that costs."""

    name: str
    """As users name it."""
    adapter: ModelAdapter
    upstream_model: str
    """As the adapter's provider names it: goes into `ModelRequest.model`."""
    card: ModelCard
    price: Price
    provider: str
    """What fails together: the host, or what else stands behind the adapter. Breakers are kept by it."""
    fallbacks: tuple["Route", ...] = ()
    """What to ask instead, in this order, when this one is unavailable."""


class Catalog:
    """Owns the adapters. Opened and closed by `wiring`; `resolve` is called by `runs` and `gateway`."""

    def __init__(
        self, *, openai_base_url: str, openai_api_key: str | None, models_file: Path | None, concurrency: int
    ) -> None:
        """Reads the models file at once, so that a mistake in it is told at start, and the price map when first needed.

        Raises:
            BadRequest: the models file cannot be used, and the message names the line; or the key cannot be sent.
        """
        self._openai_base_url = openai_base_url.rstrip("/")
        self._openai_api_key = _checked_key(openai_api_key)
        self._models_file = models_file
        self._concurrency = concurrency
        self._book = PriceBook(read_models_file(models_file) if models_file is not None else {})
        self._scripted = scripted.ScriptedAdapter(concurrency=concurrency)
        self._providers: dict[str, OpenAICompatibleAdapter] = {}

    def __repr__(self) -> str:
        return f"<Catalog {self._book!r}, open providers: {list(self._providers.values())}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._scripted.aclose()
        while self._providers:
            _, provider = self._providers.popitem()
            await provider.aclose()

    def resolve(self, name: str) -> Route:
        """The route to a model. Pure but for two caches; call it again rather than keep its result across restarts.

        Raises:
            UnknownModel: the name has a prefix that leads nowhere, or names no script.
            UnpricedModel: nobody has said what it costs.
            MissingApiKey: api.openai.com without a key.
            PriceMapUnreadable: the installation lacks the price map.
        """
        if not name or len(name) > LONGEST_NAME or not name.isprintable() or any(char.isspace() for char in name):
            raise UnknownModel(f"expected a model's name such as openai/gpt-5-mini, found {name[:LONGEST_NAME]!r}")
        if name.startswith(SCRIPTED_PREFIX):
            return self._scripted_route(name)
        bare = name.removeprefix(OPENAI_PREFIX)
        own = self._book.listed(name, bare, f"{OPENAI_PREFIX}{bare}")
        if own is None and "/" in name and not name.startswith(OPENAI_PREFIX):
            raise UnknownModel(
                f"no provider is known for {name!r}: names begin with openai/ or scripted/, or stand in the models "
                f"file (RLM_MODELS_FILE).{self._suggestion(name)}"
            )
        base_url = (own.base_url if own is not None else None) or self._openai_base_url
        booked = self._book.find(*_published_names(bare, base_url), own=own)
        if booked is None or booked.price is None:
            raise UnpricedModel(self._how_to_price(name, booked))
        provider = self._provider(base_url)
        return Route(
            name=name,
            adapter=provider,
            upstream_model=booked.upstream or bare,
            card=_card(name, booked),
            price=booked.price,
            provider=urlsplit(base_url).netloc.rpartition("@")[2],
        )

    def _scripted_route(self, name: str) -> Route:
        try:
            script = parse_script(name.removeprefix(SCRIPTED_PREFIX))
        except ScriptUnknown as exc:
            raise UnknownModel(str(exc)) from exc
        return Route(
            name=name,
            adapter=self._scripted,
            upstream_model=name.removeprefix(SCRIPTED_PREFIX),
            card=_script_card(name, script),
            price=scripted.SHADOW_PRICE,
            provider=name,  # each script fails on its own
        )

    def _provider(self, base_url: str) -> OpenAICompatibleAdapter:
        """One adapter per base URL. The key belongs to OPENAI_BASE_URL and is sent nowhere else."""
        is_configured = base_url == self._openai_base_url
        key = self._openai_api_key if is_configured else None
        if key is None and urlsplit(base_url).hostname == OPENAI_HOST:
            raise MissingApiKey(
                "api.openai.com needs a key: set OPENAI_API_KEY, or set OPENAI_BASE_URL to a server that needs none"
            )
        provider = self._providers.get(base_url)
        if provider is None:
            provider = OpenAICompatibleAdapter(base_url=base_url, api_key=key, concurrency=self._concurrency)
            self._providers[base_url] = provider
        return provider

    def _how_to_price(self, name: str, booked: BookedModel | None) -> str:
        file = self._models_file or "a file named in RLM_MODELS_FILE"
        known = booked is not None and booked.window_tokens
        window = "" if known else "window_tokens = 32768, max_output_tokens = 4096, "
        line = (
            f'models.{json.dumps(name)} = {{ {window}input_usd_per_million = "0.10", output_usd_per_million = "0.30" }}'
        )
        return (
            f'{name!r} has no price, so no budget could be kept: add its figures (a price of "0" is allowed) '
            f"to {file} in a line such as: {line}{self._suggestion(name)}"
        )

    def _suggestion(self, name: str) -> str:
        known = [one for one in self._book.names() if "/" not in one or self._book.listed(one)]
        bare = name.rsplit("/", 1)[-1]
        near = get_close_matches(bare, known, n=3, cutoff=0.75)
        return f" Did you mean {', '.join(near)}?" if near and bare not in near else ""


def _checked_key(key: str | None) -> str | None:
    """Keys are pasted, so they come with line breaks at their end; inside, nothing that a header cannot hold."""
    key = (key or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadRequest("OPENAI_API_KEY must be printable ASCII without spaces: copy the key again")
    return key or None


def _published_names(bare: str, base_url: str) -> tuple[str, ...]:
    """Where the map may have it, most telling first: as this host sells it, bare, with OpenAI's prefix."""
    host_prefix = _MAP_PREFIXES.get(urlsplit(base_url).hostname or "", "")
    return (f"{host_prefix}{bare}", bare, f"{OPENAI_PREFIX}{bare}")


def _card(name: str, booked: BookedModel) -> ModelCard:
    window = booked.window_tokens or DEFAULT_WINDOW_TOKENS
    return ModelCard(
        name=name,
        window_tokens=window,
        max_output_tokens=min(booked.max_output_tokens or DEFAULT_OUTPUT_TOKENS, window),
        may_reason=booked.may_reason,
    )


def _script_card(name: str, script: Script) -> ModelCard:
    return ModelCard(name=name, window_tokens=script.window_tokens, max_output_tokens=script.max_output_tokens)
