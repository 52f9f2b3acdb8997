"""From names to routes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import BadRequest, Fault, RlmServiceError
from service.models.catalog import Catalog, MissingApiKey, UnknownModel, UnpricedModel
from service.models.models_file import read_models_file
from service.models.openai_compatible import OpenAICompatibleAdapter
from tests.models.contract import request
from tests.models.protocol_server import serving

pytestmark = pytest.mark.anyio

OPENAI = "https://api.openai.com/v1"

MakeCatalog = Callable[..., Catalog]


@pytest.fixture
def catalog(tmp_path: Path) -> MakeCatalog:
    def make(*, base_url: str = OPENAI, key: str | None = "sk-test", models: str | None = None) -> Catalog:
        path = None
        if models is not None:
            path = tmp_path / "models.toml"
            path.write_text(models)
        return Catalog(openai_base_url=base_url, openai_api_key=key, models_file=path, concurrency=4)

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


async def test_a_models_file_names_models_of_other_servers(catalog: MakeCatalog) -> None:
    """An entry's own base URL is called under the entry's upstream name, and without the key."""
    async with serving() as server:
        entry = (
            f'[models."local/tiny"]\nbase_url = "{server.base_url}"\nupstream = "sub"\nwindow_tokens = 1000\n'
            'input_usd_per_million = "0"\noutput_usd_per_million = "0"\n'
        )
        async with catalog(models=entry) as models:
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
        ("anthropic/claude", UnknownModel, "names begin with openai/ or scripted/"),
        ("opanai/gpt-4o-mini", UnknownModel, "models file"),
        ("scripted/gerp", UnknownModel, r"Did you mean scripted/grep\?"),
        ("scripted/root?speed=9", UnknownModel, "expected an option of latency_ms"),
        ("", UnknownModel, "expected a model's name"),
        ("a b", UnknownModel, "expected a model's name"),
        ("a\nb", UnknownModel, "expected a model's name"),
        ("x" * 500, UnknownModel, "expected a model's name"),
        ("gpt-4o-mini-nano-x", UnpricedModel, r'models."gpt-4o-mini-nano-x" = \{ window_tokens'),
        ("gpt-5-mni", UnpricedModel, "Did you mean gpt-5-mini"),
        ("openai/my-model", UnpricedModel, "RLM_MODELS_FILE"),
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


async def test_the_line_that_is_proposed_works(catalog: MakeCatalog, tmp_path: Path) -> None:
    """The line in an `UnpricedModel` message can be pasted into the models file as it stands."""
    async with catalog() as models:
        with pytest.raises(UnpricedModel) as refused:
            models.resolve("openai/my-own/model")
    line = str(refused.value).partition("such as: ")[2]
    assert read_models_file(_written(tmp_path / "proposed.toml", line))["openai/my-own/model"].price is not None
    async with catalog(models=line) as models:
        assert models.resolve("openai/my-own/model").upstream_model == "my-own/model"


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


async def test_a_price_of_zero_has_to_be_said(catalog: MakeCatalog) -> None:
    """Zero is a price when the operator says so, and only then."""
    zero = '[models."openai/mine"]\nwindow_tokens = 4096\ninput_usd_per_million = "0"\noutput_usd_per_million = "0"\n'
    unsaid = '[models."openai/mine"]\nwindow_tokens = 4096\n'
    async with catalog(models=zero) as models:
        assert models.resolve("openai/mine").price.output == 0
    async with catalog(models=unsaid) as models:
        with pytest.raises(UnpricedModel):
            models.resolve("openai/mine")


async def test_a_missing_key_names_its_variable(catalog: MakeCatalog) -> None:
    """OpenAI without a key is refused before anything is sent; other servers may need none."""
    async with catalog(key=None) as models:
        with pytest.raises(MissingApiKey, match="OPENAI_API_KEY"):
            models.resolve("gpt-4o-mini")
    async with catalog(base_url="http://127.0.0.1:8000/v1", key=None) as models:
        assert models.resolve("gpt-4o-mini").price.input > 0


async def test_whose_fault_it_is(catalog: MakeCatalog) -> None:
    """A wrong name is the caller's to change, a missing price the operator's policy, a missing key the platform's."""
    assert (UnknownModel.fault, UnpricedModel.fault, MissingApiKey.fault) == (
        Fault.CALLER,
        Fault.POLICY,
        Fault.PLATFORM,
    )


async def test_a_bad_models_file_is_told_at_start(catalog: MakeCatalog) -> None:
    """The file is checked when the catalog is made, not when a run first needs it."""
    with pytest.raises(BadRequest, match="line 2"):
        catalog(models="[models.a]\nwindow_tokens = 0")


async def test_a_key_that_cannot_be_sent_is_told_at_start(catalog: MakeCatalog) -> None:
    """A pasted line break at the end is harmless; one inside is refused without quoting the key."""
    async with serving() as server, catalog(base_url=server.base_url, key="sk-pasted\n") as models:
        await models.resolve("gpt-4o-mini").adapter.complete(request())
        assert server.calls[0].headers["authorization"] == "Bearer sk-pasted"
    with pytest.raises(BadRequest, match="OPENAI_API_KEY") as refused:
        catalog(key="sk-pasted\nX-Evil: 1")
    assert "sk-pasted" not in str(refused.value)


async def test_leaving_the_catalog_closes_its_adapters(catalog: MakeCatalog) -> None:
    """The catalog owns its adapters: afterwards they are closed."""
    async with serving() as server:
        async with catalog(base_url=server.base_url) as models:
            adapter = models.resolve("gpt-4o-mini").adapter
            await adapter.complete(request())
        assert isinstance(adapter, OpenAICompatibleAdapter)
        assert "closed" in repr(adapter)
