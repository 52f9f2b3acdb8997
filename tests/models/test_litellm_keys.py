"""Which keys LiteLLM's providers want."""

import json
import os
import subprocess
import sys

import pytest

from service.models.catalog import Catalog
from service.models.entries import Api, ModelEntry
from service.models.litellm_bridge.frames import ENVIRONMENT
from service.models.litellm_bridge.keys import _WANT_KEYS, key_variables, wants_key
from service.models.litellm_bridge.provider_names import PROVIDER_NAMES
from service.models.providers import Access, MissingApiKey, has_keys, is_litellm_provider

_ASK_LITELLM = """
import json, sys
import litellm
missing = lambda each: litellm.validate_environment(model=f"{each}/a-model")["missing_keys"]
sys.stdout.write("\\n" + json.dumps({each: missing(each) for each in sys.argv[1:]}))
"""


@pytest.mark.takes_long
def test_litellm_reads_the_variables_that_are_listed() -> None:
    """What LiteLLM itself says a listed provider lacks is among the variables that we look into."""
    environment = {"PATH": os.defpath, **ENVIRONMENT}
    words = [sys.executable, "-c", _ASK_LITELLM, *_WANT_KEYS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=100)
    told = json.loads(done.stdout.splitlines()[-1])
    for provider in _WANT_KEYS:
        assert set(told[provider]) <= set(key_variables(provider)), provider


@pytest.mark.takes_long
def test_litellm_has_the_providers_that_are_listed() -> None:
    """The names by which tenants can leave keys are LiteLLM's own, as far as a model can be named by them."""
    ask = "import json, sys; from litellm.types.utils import LlmProviders; "
    tell = r"sys.stdout.write('\n' + json.dumps([each.value for each in LlmProviders]))"
    environment = {"PATH": os.defpath, **ENVIRONMENT}
    words = [sys.executable, "-c", ask + tell]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=100)
    told = json.loads(done.stdout.splitlines()[-1])
    assert {each for each in told if is_litellm_provider(each)} == PROVIDER_NAMES


def test_a_provider_of_an_entry_takes_keys() -> None:
    """Beside LiteLLM's providers, those that the operator's own entries name."""
    own = {"m": ModelEntry(api=Api.LITELLM, upstream="ours/m"), "litellm/theirs/m": ModelEntry()}
    for name in ("openai", "anthropic", "gemini", "ours", "theirs"):
        assert has_keys(name, own)
    for name in ("opnai", "m", "litellm"):
        assert not has_keys(name, own)


def test_a_model_is_described_without_a_key() -> None:
    """What it is called and costs is known before there is a key for it, and is what its route says when there is."""
    without = opened()
    for name, variable in (("openai/gpt-4o-mini", None), ("litellm/gemini/gemini-2.5-pro", "GEMINI_API_KEY")):
        described = without.describe(name)
        with pytest.raises(MissingApiKey):
            without.resolve(name)
        if variable is not None:
            route = opened(**{variable: "key-0123456789"}).resolve(name)
            assert (described.card, described.price, described.provider, described.upstream_model) == (
                *(route.card, route.price),
                *(route.provider, route.upstream_model),
            )


def opened(**variables: str) -> Catalog:
    access = Access(
        openai_base_url="https://api.openai.com/v1",
        anthropic_base_url="https://api.anthropic.com",
        variables=variables,
    )
    return Catalog(access=access, entries={}, entries_path=None, concurrency=1)


@pytest.mark.anyio
async def test_a_missing_key_is_found_before_the_call() -> None:
    """A provider that wants a key resolves with any of its variables set, and without is refused by their names."""
    for variables in ({"GEMINI_API_KEY": "k"}, {"GOOGLE_API_KEY": "k"}):
        async with opened(**variables) as catalog:
            assert not catalog.resolve("litellm/gemini/gemini-2.5-pro").may_want_credentials
    async with opened() as catalog:
        with pytest.raises(MissingApiKey, match="set GEMINI_API_KEY or GOOGLE_API_KEY"):
            catalog.resolve("litellm/gemini/gemini-2.5-pro")


@pytest.mark.anyio
async def test_what_is_not_known_is_not_claimed() -> None:
    """A provider with credentials that are no key is let through, and the route says that nobody has looked."""
    async with opened() as catalog:
        assert catalog.resolve("litellm/bedrock/anthropic.claude-3-5-haiku-20241022-v1:0").may_want_credentials
    assert not wants_key("a_server_of_mine")


@pytest.mark.anyio
async def test_an_address_that_litellm_never_hears_of_makes_no_key_needless() -> None:
    """A variable of LiteLLM's for another address is not passed on, so the provider's own still wants its key."""
    async with opened(MISTRAL_API_BASE="http://127.0.0.1:1/v1") as catalog:
        with pytest.raises(MissingApiKey, match="MISTRAL_API_KEY"):
            catalog.resolve("litellm/mistral/mistral-small-latest")
