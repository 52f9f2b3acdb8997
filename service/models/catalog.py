"""The catalog: from a model's name to everything that is needed to call it and to pay for it.

    scripted/STRATEGY[?OPTIONS]   the shipped deterministic model; needs no key, no network, no price file
    NAME in the configuration     as its entry says
    openai/MODEL, or MODEL        the OpenAI-compatible provider at OPENAI_BASE_URL
    anthropic/MODEL               Anthropic, or who speaks its protocol at ANTHROPIC_BASE_URL
    litellm/PROVIDER/MODEL        any provider that LiteLLM knows, through its process

A model without a price is refused, because a budget could not be kept. A price of 0 is a price, but only an operator
can say so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from service.errors import Fault, RlmServiceError
from service.models.entries import Api, ModelEntry
from service.models.port import ModelAdapter, ModelCard
from service.models.price_book import DEFAULT_OUTPUT_TOKENS, BookedModel, PriceBook
from service.models.prices import Price
from service.models.providers import (
    LITELLM_PREFIX,
    NO_KEYS,
    Access,
    Endpoint,
    Providers,
    base_url_of,
    check_keys,
    endpoint_of,
    is_litellm_provider,
)
from service.models.scripted import adapter as scripted
from service.models.scripted.script import PREFIX as SCRIPTED_PREFIX
from service.models.scripted.script import Script, ScriptUnknown, parse_script
from service.models.targets import OPENAI_PREFIX, Target, published_names, seller_of

_PREFIXES = {OPENAI_PREFIX: Api.OPENAI, "anthropic/": Api.ANTHROPIC, LITELLM_PREFIX: Api.LITELLM}
LONGEST_NAME = 200
DEFAULT_WINDOW_TOKENS = 8192
"""For a priced model whose window nobody has published: small, so that what is planned fits."""


def is_name(text: str) -> bool:
    """Whether a model can be called so. Whether one is, the catalog knows."""
    is_whole = bool(text) and not text.endswith("/") and len(text) <= LONGEST_NAME
    return is_whole and text.isprintable() and not any(char.isspace() for char in text)


class UnknownModel(RlmServiceError):
    """The name leads to no provider; the message suggests names that do."""

    code = "unknown_model"
    fault = Fault.CALLER


class UnpricedModel(RlmServiceError):
    """The model has no price, so no budget could hold; the message shows the lines that give it one."""

    code = "unpriced_model"
    fault = Fault.POLICY


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
    may_want_credentials: bool = False
    """LiteLLM may want credentials for it that nobody has looked for."""
    fallbacks: tuple["Route", ...] = ()
    """What to ask instead, in this order, when this one is unavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedModel:
    """What there is to say of a model, whether or not it can be called."""

    name: str
    upstream_model: str
    card: ModelCard
    price: Price
    provider: str
    """As `Route.provider`."""
    fallbacks: tuple[str, ...]


class Catalog:
    """Owns the adapters. Opened and closed by `wiring`; `resolve` is called by `runs`, and by who shows models."""

    def __init__(
        self, *, access: Access, entries: Mapping[str, ModelEntry], entries_path: Path | None, concurrency: int
    ) -> None:
        """Nothing is opened yet, and the price map is read when it is first needed.

        Args:
            access: where providers are, and their keys.
            entries: the operator's own models.
            entries_path: the file that they come from, for messages.
            concurrency: calls in flight at once per provider.

        Raises:
            BadRequest: a key cannot be sent.
        """
        check_keys(access)
        self._access = access
        self._entries_path = entries_path
        self._book = PriceBook(entries)
        self._scripted = scripted.ScriptedAdapter(concurrency=concurrency)
        self.providers = Providers(access, concurrency=concurrency)

    def __repr__(self) -> str:
        return f"<Catalog {self._book!r}, {self.providers!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._scripted.aclose()
        await self.providers.aclose()

    @property
    def configured_names(self) -> tuple[str, ...]:
        """The models that the operator's own entries name."""
        return self._book.own_names

    def resolve(self, name: str, tenants_keys: Mapping[str, str] = NO_KEYS) -> Route:
        """The route to a model and to its fallbacks. Pure but for two caches.

        Call it again rather than keep its result across restarts. `tenants_keys` are those that the tenant has left for
        providers, by their names; they count before the operator's.

        Raises:
            UnknownModel: the name has a prefix that leads nowhere, or names no script.
            UnpricedModel: nobody has said what it costs.
            MissingApiKey: the provider wants a key and there is none.
            PriceMapUnreadable: the installation lacks the price map.
        """
        own = self._own(name)
        route = self._route(name, own, tenants_keys)
        if own is None:
            return route
        # A fallback has no fallbacks of its own: a list says all there is to it.
        return replace(
            route, fallbacks=tuple(self._route(each, self._own(each), tenants_keys) for each in own.fallbacks)
        )

    def describe(self, name: str) -> DescribedModel:
        """What `resolve` would lead to, and that costs; keys are not looked for.

        Raises:
            UnknownModel, UnpricedModel, PriceMapUnreadable: as `resolve`.
        """
        own = self._own(name)
        if is_name(name) and name.startswith(SCRIPTED_PREFIX):
            route = self._scripted_route(name)
            upstream, card, price, provider = route.upstream_model, route.card, route.price, route.provider
        else:
            target, card, price = self._priced(name, own)
            upstream = target.model
            provider = Endpoint(
                api=target.api,
                base_url=base_url_of(self._access, target.api, own),
                api_key=None,
                litellm_provider=target.litellm_provider,
            ).name
        fallbacks = () if own is None else own.fallbacks
        return DescribedModel(
            name=name, upstream_model=upstream, card=card, price=price, provider=provider, fallbacks=fallbacks
        )

    def _own(self, name: str) -> ModelEntry | None:
        """`m` and `openai/m` are one model; under any other prefix a name is only itself."""
        bare = name.removeprefix(OPENAI_PREFIX)
        if bare.startswith((*_PREFIXES, SCRIPTED_PREFIX)):
            return self._book.listed(name)
        return self._book.listed(name, bare, f"{OPENAI_PREFIX}{bare}")

    def _route(self, name: str, own: ModelEntry | None, tenants_keys: Mapping[str, str]) -> Route:
        if is_name(name) and name.startswith(SCRIPTED_PREFIX):
            return self._scripted_route(name)
        target, card, price = self._priced(name, own)
        endpoint = endpoint_of(
            self._access, target.api, own, litellm_provider=target.litellm_provider, tenants_keys=tenants_keys
        )
        return Route(
            name=name,
            adapter=self.providers.adapter(endpoint),
            upstream_model=target.model,
            card=card,
            price=price,
            provider=endpoint.name,
            may_want_credentials=endpoint.may_want_credentials,
        )

    def _priced(self, name: str, own: ModelEntry | None) -> tuple[Target, ModelCard, Price]:
        """Where the name leads, and what is known of the model there."""
        if not is_name(name):
            raise UnknownModel(f"expected a model's name such as openai/gpt-5-mini, found {name[:LONGEST_NAME]!r}")
        target = self._target(name, own)
        host = urlsplit(base_url_of(self._access, target.api, own) or "").hostname or ""
        booked = self._book.find(*published_names(target, host), own=own, sold_by=seller_of(target))
        if booked is None or booked.price is None:
            raise UnpricedModel(self._how_to_price(name, booked))
        card = replace(_card(name, booked), direct_below_tokens=None if own is None else own.direct_below_tokens)
        return target, card, booked.price

    def _target(self, name: str, own: ModelEntry | None) -> Target:
        """Which protocol, and the model's name there."""
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        if own is None and not prefix and "/" in name:
            raise UnknownModel(
                f"no provider is known for {name!r}: names begin with openai/, anthropic/, litellm/PROVIDER/ or "
                f"scripted/, or stand in the configuration file (RLM_CONFIG).{self._suggestion(name)}"
            )
        api = (None if own is None else own.api) or _PREFIXES.get(prefix, Api.OPENAI)
        model = (None if own is None else own.upstream) or name.removeprefix(prefix)
        if api is not Api.LITELLM:
            return Target(api=api, model=model)
        provider, _, rest = model.partition("/")
        if not rest or not is_litellm_provider(provider):
            raise UnknownModel(
                f"expected litellm/PROVIDER/MODEL, such as litellm/gemini/gemini-2.5-pro, found {name!r}"
            )
        return Target(api=api, model=rest, litellm_provider=provider)

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

    def _how_to_price(self, name: str, booked: BookedModel | None) -> str:
        file = self._entries_path or "a file named in RLM_CONFIG"
        known = booked is not None and booked.window_tokens
        window = "" if known else "window_tokens = 32768, max_output_tokens = 4096, "
        line = (
            f'models.{json.dumps(name)} = {{ {window}input_usd_per_million = "0.10", output_usd_per_million = "0.30" }}'
        )
        has_fees = booked is not None and booked.has_fees
        why = "is billed by more than its tokens" if has_fees else "has no price"
        what = "figures that cover its fees too" if has_fees else 'its figures (a price of "0" is allowed)'
        return (
            f"{name!r} {why}, so no budget could be kept: add {what} "
            f"to {file} in a line such as: {line}{self._suggestion(name)}"
        )

    def _suggestion(self, name: str) -> str:
        known = [one for one in self._book.names() if "/" not in one or self._book.listed(one)]
        bare = name.rsplit("/", 1)[-1]
        near = get_close_matches(bare, known, n=3, cutoff=0.75)
        return f" Did you mean {', '.join(near)}?" if near and bare not in near else ""


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
