"""The providers: where each is, which key it gets, and the adapters that are open to them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never
from urllib.parse import urlsplit

from service.errors import BadRequest, Fault, RlmServiceError
from service.models.anthropic_messages import AnthropicAdapter
from service.models.entries import Api, ModelEntry
from service.models.litellm_bridge.adapter import LiteLLMAdapter
from service.models.litellm_bridge.keys import key_variables, wants_key
from service.models.litellm_bridge.process import LiteLLMProcess
from service.models.litellm_bridge.provider_names import PROVIDER_NAMES
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.port import ModelAdapter
from service.models.tenant_clients import TenantClients

OPENAI_HOST = "api.openai.com"
ANTHROPIC_HOST = "api.anthropic.com"
LITELLM_PREFIX = "litellm/"
_LITELLM_PROVIDER = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")


class MissingApiKey(RlmServiceError):
    """The provider wants a key and none is configured; the message names the variable."""

    code = "missing_api_key"
    fault = Fault.PLATFORM


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the environment says about providers."""

    openai_base_url: str
    openai_api_key: str | None = field(default=None, repr=False)
    anthropic_base_url: str
    anthropic_api_key: str | None = field(default=None, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment, in which further keys are looked up by name."""

    def key(self, variable: str) -> str | None:
        """The key in a variable; None when it is not set.

        Raises:
            BadRequest: it cannot be sent.
        """
        return checked_key(variable, self.variables.get(variable))


def checked_key(variable: str, key: str | None) -> str | None:
    """Keys are pasted, so they come with line breaks at their end; inside, nothing that a header cannot hold.

    Raises:
        BadRequest: it cannot be sent.
    """
    key = (key or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadRequest(f"{variable} must be printable ASCII without spaces: copy the key again")
    return key or None


def check_keys(access: Access) -> None:
    """Everything about the keys for the providers of both protocols that can be told before there is a call.

    Raises:
        BadRequest: one cannot be sent.
    """
    checked_key("ANTHROPIC_API_KEY", access.anthropic_api_key)
    if checked_key("OPENAI_API_KEY", access.openai_api_key) and _has_credentials(access.openai_base_url):
        raise BadRequest(
            "OPENAI_BASE_URL has a user name or a password, and OPENAI_API_KEY is set: both would be the Authorization "
            "header, so take one of them away"
        )


def _has_credentials(url: str) -> bool:
    return "@" in urlsplit(url).netloc


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One provider as it is called. Calls to the same endpoint share an adapter."""

    api: Api
    base_url: str | None
    """None: LiteLLM knows it."""
    api_key: str | None = field(repr=False)
    litellm_provider: str = ""
    may_want_credentials: bool = False
    """Nothing was found to show there, and whether it is wanted, only LiteLLM finds out."""
    is_tenants_key: bool = False
    """Whether the key is a tenant's own, so that its client is one of a bounded number."""

    @property
    def name(self) -> str:
        """What fails together."""
        host = "" if self.base_url is None else urlsplit(self.base_url).netloc.rpartition("@")[2]
        behind = ("litellm", self.litellm_provider) if self.api is Api.LITELLM else ()
        return "/".join((*behind, host) if host else behind)


NO_KEYS: Mapping[str, str] = MappingProxyType({})


def endpoint_of(
    access: Access,
    api: Api,
    own: ModelEntry | None,
    *,
    litellm_provider: str = "",
    tenants_keys: Mapping[str, str] = NO_KEYS,
) -> Endpoint:
    """Where a model is called, and with which key.

    A key goes to the server that it belongs to and nowhere else: OPENAI_API_KEY to OPENAI_BASE_URL, ANTHROPIC_API_KEY
    to ANTHROPIC_BASE_URL, a LiteLLM provider's to that provider's own address, and to the base URL of an entry only
    what its `api_key_env` names. Where the operator's key would be sent, a tenant's own for the same provider
    (`openai`, `anthropic`, or LiteLLM's name of it) is sent instead, if it has left one; to an OPENAI_BASE_URL with
    credentials of its own, neither.

    Raises:
        MissingApiKey: the variable that should hold the key is not set.
        BadRequest: the key cannot be sent.
    """
    base_url = base_url_of(access, api, own)
    own_variable = None if own is None else own.api_key_env
    key, tenants_key = None, None
    if own_variable is not None:
        key = access.key(own_variable)
        if key is None:
            raise MissingApiKey(f"the model's api_key_env names {own_variable}, which is not set")
    elif base_url == _configured_url(access, api) and not (api is Api.OPENAI and _has_credentials(base_url or "")):
        tenants_key = tenants_keys.get(litellm_provider or api)
        key = tenants_key or _default_key(access, api, litellm_provider)
    host = urlsplit(base_url or "").hostname
    if key is None and host in (OPENAI_HOST, ANTHROPIC_HOST):
        raise MissingApiKey(f"{host} needs a key: {_where_a_key_belongs(access, api, base_url)}")
    is_bare = api is Api.LITELLM and base_url is None and key is None
    if is_bare and wants_key(litellm_provider):
        names = " or ".join(key_variables(litellm_provider))
        raise MissingApiKey(f"LiteLLM's provider {litellm_provider} needs a key: set {names}")
    return Endpoint(
        api=api,
        base_url=base_url,
        api_key=key,
        litellm_provider=litellm_provider,
        may_want_credentials=is_bare,
        is_tenants_key=tenants_key is not None,
    )


def _where_a_key_belongs(access: Access, api: Api, base_url: str | None) -> str:
    if base_url != _configured_url(access, api):
        return "name the variable that holds it as the model's api_key_env"
    protocol = "ANTHROPIC" if api is Api.ANTHROPIC else "OPENAI"
    return f"set {protocol}_API_KEY for the service, or {protocol}_BASE_URL to a server that needs none"


def _default_key(access: Access, api: Api, litellm_provider: str) -> str | None:
    match api:
        case Api.OPENAI:
            return checked_key("OPENAI_API_KEY", access.openai_api_key)
        case Api.ANTHROPIC:
            return checked_key("ANTHROPIC_API_KEY", access.anthropic_api_key)
        case Api.LITELLM:
            found = (access.key(variable) for variable in key_variables(litellm_provider))
            return next((key for key in found if key), None)
        case _:
            assert_never(api)


def is_litellm_provider(name: str) -> bool:
    """Whether this can be the name of a provider of LiteLLM's. Which there are, its process knows."""
    return _LITELLM_PROVIDER.fullmatch(name) is not None


def has_keys(name: str, entries: Mapping[str, ModelEntry]) -> bool:
    """Whether a key for the provider of this name may be used by some call: it is `openai`, `anthropic`, one of
    LiteLLM's, or what the operator's own entries name behind `litellm/`."""
    return name in {Api.OPENAI, Api.ANTHROPIC} or name in PROVIDER_NAMES or name in _litellm_providers(entries)


def _litellm_providers(entries: Mapping[str, ModelEntry]) -> set[str]:
    upstreams = {
        (entry.upstream or model).removeprefix(LITELLM_PREFIX)
        for model, entry in entries.items()
        if entry.api is Api.LITELLM or (entry.api is None and model.startswith(LITELLM_PREFIX))
    }
    return {upstream.partition("/")[0] for upstream in upstreams}


def base_url_of(access: Access, api: Api, own: ModelEntry | None) -> str | None:
    """Where a model is called; None where only LiteLLM knows."""
    return (None if own is None else own.base_url) or _configured_url(access, api)


def _configured_url(access: Access, api: Api) -> str | None:
    match api:
        case Api.OPENAI:
            return access.openai_base_url
        case Api.ANTHROPIC:
            return access.anthropic_base_url
        case Api.LITELLM:
            return None
        case _:
            assert_never(api)


class Providers:
    """The open adapters, one for each endpoint. Owned by the catalog."""

    def __init__(self, access: Access, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._litellm = LiteLLMProcess(access.variables)
        self._adapters: dict[Endpoint, ModelAdapter] = {}
        self._tenants: TenantClients[Endpoint] = TenantClients(self._opened)

    def __repr__(self) -> str:
        return f"<Providers {list(self._adapters.values())}>"

    @property
    def litellm(self) -> LiteLLMProcess:
        """The process behind every endpoint of LiteLLM's; it runs only once it has been needed."""
        return self._litellm

    def adapter(self, endpoint: Endpoint) -> ModelAdapter:
        """The endpoint's adapter; nothing is connected before its first call."""
        if endpoint.is_tenants_key:
            return self._tenants.adapter(endpoint)
        if (adapter := self._adapters.get(endpoint)) is None:
            adapter = self._adapters[endpoint] = self._opened(endpoint)
        return adapter

    async def aclose(self) -> None:
        """Close all of them, and end LiteLLM's process."""
        while self._adapters:
            _, adapter = self._adapters.popitem()
            await adapter.aclose()
        await self._tenants.aclose()
        await self._litellm.aclose()

    def _opened(self, endpoint: Endpoint) -> ModelAdapter:
        key, concurrency = endpoint.api_key, self._concurrency
        match endpoint.api:
            case Api.OPENAI:
                return OpenAICompatibleAdapter(base_url=endpoint.base_url or "", api_key=key, concurrency=concurrency)
            case Api.ANTHROPIC:
                return AnthropicAdapter(base_url=endpoint.base_url or "", api_key=key, concurrency=concurrency)
            case Api.LITELLM:
                return LiteLLMAdapter(
                    self._litellm,
                    provider=endpoint.litellm_provider,
                    api_key=key,
                    base_url=endpoint.base_url,
                    concurrency=concurrency,
                )
            case _:
                assert_never(endpoint.api)
