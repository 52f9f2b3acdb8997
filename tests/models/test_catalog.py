"""From names to routes."""

from collections.abc import Callable

import pytest

from service.errors import BadRequest, Fault, RlmServiceError
from service.models.anthropic_messages import AnthropicAdapter
from service.models.catalog import Catalog, UnknownModel, UnpricedModel
from service.models.entries import Api, ModelEntry
from service.models.litellm_bridge.adapter import LiteLLMAdapter
from service.models.openai_compatible import OpenAICompatibleAdapter
from service.models.prices import Price
from service.models.providers import Access, MissingApiKey
from tests.models.contract import request
from tests.models.protocol_server import serving

pytestmark = pytest.mark.anyio

OPENAI = "https://api.openai.com/v1"

FREE = Price(input=0, cached_input=0, cache_write=0, output=0)
MakeCatalog = Callable[..., Catalog]


@pytest.fixture
def catalog() -> MakeCatalog:
    def make(
        *,
        base_url: str = OPENAI,
        key: str | None = "sk-test",
        anthropic_base_url: str = "https://api.anthropic.com",
        anthropic_key: str | None = "sk-ant-test",
        variables: dict[str, str] | None = None,
        entries: dict[str, ModelEntry] | None = None,
    ) -> Catalog:
        access = Access(
            openai_base_url=base_url,
            openai_api_key=key,
            anthropic_base_url=anthropic_base_url,
            anthropic_api_key=anthropic_key,
            variables=variables or {},
        )
        return Catalog(access=access, entries=entries or {}, entries_path=None, concurrency=4)

    return make


async def test_a_name_with_and_without_its_prefix(catalog: MakeCatalog) -> None:
    """`openai/m` and `m` lead to the same provider, model and price, under the name that was asked for."""
    async with catalog() as models:
        bare, prefixed = models.resolve("gpt-4o-mini"), models.resolve("openai/gpt-4o-mini")
        assert bare.name == bare.card.name == "gpt-4o-mini"
        assert prefixed.name == "openai/gpt-4o-mini"
        assert bare.upstream_model == prefixed.upstream_model == "gpt-4o-mini"
        assert bare.adapter is prefixed.adapter
        assert bare.price == prefixed.price
        assert bare.card.window_tokens == 128_000


async def test_scripted_models_need_nothing(catalog: MakeCatalog) -> None:
    """The shipped model has a price, no key and no provider."""
    async with catalog(key=None) as models:
        route = models.resolve("scripted/root?window_tokens=5000&max_output_tokens=99")
        assert route.upstream_model == "root?window_tokens=5000&max_output_tokens=99"
        assert (route.card.window_tokens, route.card.max_output_tokens) == (5000, 99)
        assert route.price.input > 0
        assert (await models.resolve("scripted/sub").adapter.complete(request())).text == "1298418"


async def test_an_entry_names_a_model_of_another_server(catalog: MakeCatalog) -> None:
    """An entry's own base URL is called under the entry's upstream name, and without the key."""
    async with serving() as server:
        entry = ModelEntry(base_url=server.base_url, upstream="sub", window_tokens=1000, price=FREE)
        async with catalog(entries={"local/tiny": entry}) as models:
            route = models.resolve("local/tiny")
            assert route.upstream_model == "sub"
            assert route.card.window_tokens == 1000
            reply = await route.adapter.complete(request(model=route.upstream_model))
        assert reply.text == "1298418"
        assert "authorization" not in server.calls[0].headers


async def test_the_key_goes_to_the_configured_server(catalog: MakeCatalog) -> None:
    """Any OPENAI_BASE_URL works, with the key that belongs to it."""
    async with serving() as server, catalog(base_url=server.base_url, key="sk-for-this-server") as models:
        route = models.resolve("gpt-4o-mini")
        await route.adapter.complete(request(model=route.upstream_model))
        assert server.calls[0].headers["authorization"] == "Bearer sk-for-this-server"
        assert server.calls[0].body["model"] == "gpt-4o-mini"


async def test_prices_are_those_of_the_host(catalog: MakeCatalog) -> None:
    """A model is priced as the configured host sells it, not as another one does."""
    name = "openai/openai/gpt-oss-20b"
    async with catalog(base_url="https://api.groq.com/openai/v1") as groq, catalog() as openai:
        assert groq.resolve(name).price.input > 0
        assert groq.resolve(name).upstream_model == "openai/gpt-oss-20b"
        with pytest.raises(UnpricedModel):
            openai.resolve(name)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("antropic/claude", UnknownModel, "names begin with openai/, anthropic/, litellm/PROVIDER/ or scripted/"),
        ("opanai/gpt-4o-mini", UnknownModel, "configuration file"),
        ("anthropic/claude-nobody", UnpricedModel, "has no price"),
        ("litellm/gemini", UnknownModel, "expected litellm/PROVIDER/MODEL"),
        ("litellm/gem ini/x", UnknownModel, "expected a model's name"),
        ("litellm/../x", UnknownModel, "expected litellm/PROVIDER/MODEL"),
        ("litellm/gemini/nothing-of-the-kind", UnpricedModel, "has no price"),
        ("litellm/mistral/gpt-4o-mini", UnpricedModel, "has no price"),
        ("scripted/gerp", UnknownModel, r"Did you mean scripted/grep\?"),
        ("scripted/root?speed=9", UnknownModel, "expected an option of latency_ms"),
        ("", UnknownModel, "expected a model's name"),
        ("a b", UnknownModel, "expected a model's name"),
        ("a\nb", UnknownModel, "expected a model's name"),
        ("x" * 500, UnknownModel, "expected a model's name"),
        ("gpt-4o-mini-nano-x", UnpricedModel, r'models."gpt-4o-mini-nano-x" = \{ window_tokens'),
        ("gpt-5-mni", UnpricedModel, "Did you mean gpt-5-mini"),
        ("openai/my-model", UnpricedModel, "RLM_CONFIG"),
    ],
)
async def test_names_that_lead_nowhere(
    catalog: MakeCatalog, name: str, error: type[RlmServiceError], message: str
) -> None:
    """Each failure is one line that says what to change."""
    async with catalog() as models:
        with pytest.raises(error, match=message) as refused:
            models.resolve(name)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 800


async def test_a_price_of_zero_has_to_be_said(catalog: MakeCatalog) -> None:
    """Zero is a price when the operator says so, and only then."""
    for price, is_known in ((FREE, True), (None, False)):
        entry = ModelEntry(window_tokens=4096, price=price)
        async with catalog(entries={"openai/mine": entry}) as models:
            if is_known:
                assert models.resolve("openai/mine").price.output == 0
            else:
                with pytest.raises(UnpricedModel):
                    models.resolve("openai/mine")


async def test_a_missing_key_names_its_variable(catalog: MakeCatalog) -> None:
    """OpenAI without a key is refused before anything is sent; other servers may need none."""
    async with catalog(key=None) as models:
        with pytest.raises(MissingApiKey, match="OPENAI_API_KEY"):
            models.resolve("gpt-4o-mini")
    async with catalog(base_url="http://127.0.0.1:8000/v1", key=None) as models:
        assert models.resolve("gpt-4o-mini").price.input > 0


async def test_a_missing_key_is_asked_for_where_it_would_be_read(catalog: MakeCatalog) -> None:
    """The variable of a protocol for the server that it names, and the entry's own for an entry's server."""
    entry = ModelEntry(base_url="https://api.openai.com/v2", price=FREE)
    async with catalog(key=None, anthropic_key=None, anthropic_base_url=OPENAI, entries={"mine": entry}) as models:
        for name, advice in (
            ("gpt-4o-mini", "set OPENAI_API_KEY for the service, or OPENAI_BASE_URL"),
            ("anthropic/claude-sonnet-4-5", "set ANTHROPIC_API_KEY for the service, or ANTHROPIC_BASE_URL"),
            ("mine", "as the model's api_key_env"),
        ):
            with pytest.raises(MissingApiKey, match=advice):
                models.resolve(name)


async def test_whose_fault_it_is(catalog: MakeCatalog) -> None:
    """A wrong name is the caller's to change, a missing price the operator's policy, a missing key the platform's."""
    assert (UnknownModel.fault, UnpricedModel.fault, MissingApiKey.fault) == (
        Fault.CALLER,
        Fault.POLICY,
        Fault.PLATFORM,
    )


async def test_a_key_that_cannot_be_sent_is_told_at_start(catalog: MakeCatalog) -> None:
    """A pasted line break at the end is harmless; one inside is refused without quoting the key."""
    async with serving() as server, catalog(base_url=server.base_url, key="sk-pasted\n") as models:
        await models.resolve("gpt-4o-mini").adapter.complete(request())
        assert server.calls[0].headers["authorization"] == "Bearer sk-pasted"
    with pytest.raises(BadRequest, match="OPENAI_API_KEY") as refused:
        catalog(key="sk-pasted\nX-Evil: 1")
    assert "sk-pasted" not in str(refused.value)


async def test_a_password_in_the_base_url_takes_no_key_beside_it(catalog: MakeCatalog) -> None:
    """Both are one header: the pair is refused at start without being quoted, and no tenant's key comes between."""
    async with serving() as server:
        address = server.base_url.replace("://", "://me:pw@")
        with pytest.raises(BadRequest, match=r"OPENAI_BASE_URL.*OPENAI_API_KEY") as refused:
            catalog(base_url=address)
        assert not [secret for secret in ("me:pw", "sk-test") if secret in str(refused.value)]
        async with catalog(base_url=address, key=None) as models:
            await models.resolve("gpt-4o-mini", {"openai": "sk-tenants"}).adapter.complete(request())
        assert server.calls[0].headers["authorization"] == "Basic bWU6cHc="


async def test_an_entry_is_no_other_providers_model(catalog: MakeCatalog) -> None:
    """An entry for a model of OpenAI's protocol says nothing of one that only begins like another provider's."""
    dear = Price(input=10**15, cached_input=10**15, cache_write=10**15, output=10**15)
    entry = ModelEntry(price=dear, window_tokens=1000)
    async with catalog(entries={"openai/anthropic/claude-sonnet-4-5": entry}) as models:
        assert models.resolve("openai/anthropic/claude-sonnet-4-5").price == dear
        assert models.resolve("anthropic/claude-sonnet-4-5").price != dear
    async with catalog(entries={"anthropic/claude-sonnet-4-5": entry}) as models:
        assert models.resolve("anthropic/claude-sonnet-4-5").price == dear
        with pytest.raises(UnpricedModel):
            models.resolve("openai/anthropic/claude-sonnet-4-5")


async def test_leaving_the_catalog_closes_its_adapters(catalog: MakeCatalog) -> None:
    """The catalog owns its adapters: afterwards they are closed."""
    async with serving() as server:
        async with catalog(base_url=server.base_url) as models:
            adapter = models.resolve("gpt-4o-mini").adapter
            await adapter.complete(request())
        assert isinstance(adapter, OpenAICompatibleAdapter)
        assert "closed" in repr(adapter)


async def test_anthropic_is_spoken_to_natively(catalog: MakeCatalog) -> None:
    """`anthropic/…` goes to ANTHROPIC_BASE_URL with its key, at Anthropic's price."""
    async with serving() as server, catalog(anthropic_base_url=server.base_url, anthropic_key="sk-ant-x") as models:
        route = models.resolve("anthropic/claude-sonnet-4-5")
        assert isinstance(route.adapter, AnthropicAdapter)
        assert (route.upstream_model, route.price.input) == ("claude-sonnet-4-5", 3_000_000_000)
        assert route.price.cached_input < route.price.input < route.price.cache_write
        await route.adapter.complete(request(model=route.upstream_model))
        assert server.calls[0].headers["x-api-key"] == "sk-ant-x"
    async with catalog(anthropic_key=None) as models:
        with pytest.raises(MissingApiKey, match="ANTHROPIC_API_KEY"):
            models.resolve("anthropic/claude-sonnet-4-5")


async def test_other_providers_go_through_litellm(catalog: MakeCatalog) -> None:
    """`litellm/PROVIDER/MODEL` has the provider's price, and no process runs before the first call."""
    async with catalog(variables={"GEMINI_API_KEY": "k"}) as models:
        route = models.resolve("litellm/gemini/gemini-2.5-pro")
        assert isinstance(route.adapter, LiteLLMAdapter)
        assert (route.upstream_model, route.provider) == ("gemini-2.5-pro", "litellm/gemini")
        assert route.price.tiers
        assert models.providers.litellm.pid is None
        assert route.adapter is models.resolve("litellm/gemini/gemini-2.5-flash").adapter


async def test_an_entry_chooses_protocol_and_key(catalog: MakeCatalog) -> None:
    """`api` and `api_key_env` of an entry decide how its server is spoken to, and with whose key."""
    async with serving() as server:
        entry = ModelEntry(api=Api.ANTHROPIC, base_url=server.base_url, api_key_env="MY_KEY", upstream="m", price=FREE)
        async with catalog(entries={"mine": entry}, variables={"MY_KEY": "sk-mine", "OTHER": "no"}) as models:
            await models.resolve("mine").adapter.complete(request())
        (call,) = server.calls
    assert call.path == "/v1/messages"
    assert call.headers["x-api-key"] == "sk-mine"
    async with catalog(entries={"mine": entry}) as models:
        with pytest.raises(MissingApiKey, match="MY_KEY"):
            models.resolve("mine")


@pytest.mark.parametrize("api", list(Api))
async def test_no_key_goes_where_it_does_not_belong(catalog: MakeCatalog, api: Api) -> None:
    """An entry's own server is called without the keys of the providers whose protocol it speaks."""
    entry = ModelEntry(api=api, base_url="http://127.0.0.1:9/v1", upstream="hosted_vllm/m", price=FREE)
    async with catalog(entries={"mine": entry}, variables={"HOSTED_VLLM_API_KEY": "sk-other"}) as models:
        adapter = models.resolve("mine").adapter
        assert not [key for key in ("sk-test", "sk-ant-test", "sk-other") if key in str(vars(adapter))]


async def test_fallbacks_are_routes(catalog: MakeCatalog) -> None:
    """An entry's fallbacks are resolved with it, in order, without fallbacks of their own; a wrong one is told."""
    entries = {
        "first": ModelEntry(price=FREE, window_tokens=1000, fallbacks=("anthropic/claude-sonnet-4-5", "second")),
        "second": ModelEntry(price=FREE, window_tokens=1000, fallbacks=("first",)),
        "wrong": ModelEntry(price=FREE, window_tokens=1000, fallbacks=("nobody/knows",)),
    }
    async with catalog(entries=entries) as models:
        route = models.resolve("first")
        assert [each.name for each in route.fallbacks] == ["anthropic/claude-sonnet-4-5", "second"]
        assert [each.provider for each in route.fallbacks] == ["api.anthropic.com", "api.openai.com"]
        assert not route.fallbacks[1].fallbacks
        with pytest.raises(UnknownModel, match="nobody/knows"):
            models.resolve("wrong")
