"""The published price map and the operator's entries over it."""

import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

from service.models.entries import ModelEntry
from service.models.price_book import PriceBook, _published_map
from service.models.prices import Price, Rates

BOOK = PriceBook({})


def test_a_published_model_has_its_figures() -> None:
    """Window, output limit, reasoning and exact prices come from the map in the wheel."""
    model = BOOK.find("gpt-4o-mini")
    assert model is not None
    assert (model.window_tokens, model.max_output_tokens, model.may_reason) == (128_000, 16_384, False)
    assert model.price == Price(input=150_000_000, cached_input=75_000_000, cache_write=150_000_000, output=600_000_000)


def test_long_inputs_have_their_tier() -> None:
    """A model that is dearer above a threshold has a tier there."""
    model = BOOK.find("gemini-2.5-pro")
    assert model is not None
    assert model.price is not None
    (tier,) = model.price.tiers
    assert tier.above_input_tokens == 200_000
    assert tier.rates.input == 2 * model.price.input
    assert tier.rates.output > model.price.output


def test_every_published_price_is_read_exactly() -> None:
    """For every priced text model the stored rate is the published one, rounded up by less than a nano-USD."""
    priced = 0
    for name, entry in _published_map().items():
        model = BOOK.find(name)
        published = entry.get("input_cost_per_token")
        if model is None or model.price is None or entry.get("tiered_pricing") or published is None:
            continue
        priced += 1
        exact = Fraction(Decimal(published)) * 10**15
        assert 0 <= model.price.input - exact < 1
        assert all(rate >= 0 for rate in _all_rates(model.price))
        assert [tier.above_input_tokens for tier in model.price.tiers] == sorted(
            {tier.above_input_tokens for tier in model.price.tiers}
        )
    assert priced > 1000


def _all_rates(price: Price) -> list[int]:
    rows: list[Rates] = [price, *(tier.rates for tier in price.tiers)]
    return [rate for row in rows for rate in (row.input, row.cached_input, row.cache_write, row.output)]


def test_models_that_are_billed_by_more_than_tokens_have_no_price() -> None:
    """Fees for requests and for searches that are always made are in no rate, so published rates are no price there."""
    for name in ("gpt-4o-search-preview", "gpt-5-search-api", "perplexity/sonar-pro", "perplexity/pplx-7b-online"):
        model = BOOK.find(name)
        assert model is not None
        assert (model.price, model.has_fees) == (None, True)
    own = Price(input=10**10, cached_input=10**10, cache_write=10**10, output=10**10)
    told = BOOK.find("perplexity/sonar", own=ModelEntry(price=own))
    assert told is not None
    assert told.price == own


def test_a_fee_for_searches_that_are_asked_for_changes_no_price() -> None:
    """Most models have a price for a search; only requests that ask for one cost it, and ours do not."""
    able = [name for name, entry in _published_map().items() if entry.get("search_context_cost_per_query")]
    models = [model for name in able if (model := BOOK.find(name)) is not None]
    assert sum(model.price is not None for model in models) > 200


def test_no_published_price_is_zero() -> None:
    """A 0 in the map means a subscription or ignorance, so it is no price."""
    models = [BOOK.find(name) for name in _published_map()]
    assert all(max(_all_rates(model.price)) > 0 for model in models if model is not None and model.price is not None)


def test_models_that_are_not_for_text_are_unknown() -> None:
    """Embedding and image models are not offered."""
    assert BOOK.find("text-embedding-3-small") is None
    assert BOOK.find("sample_spec") is None


def test_litellm_is_not_imported() -> None:
    """Reading prices executes nothing of LiteLLM, which would take seconds."""
    code = (
        "import sys\n"
        "from service.models.price_book import PriceBook\n"
        "assert PriceBook({}).find('gpt-4o-mini').price\n"
        "assert 'litellm' not in sys.modules, 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_map_is_not_read_before_it_is_needed() -> None:
    """Making a book, as every start does, reads nothing."""
    code = (
        "from service.models import price_book\n"
        "price_book.PriceBook({})\n"
        "assert price_book._published_map.cache_info().currsize == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_entry_replaces_only_what_it_names() -> None:
    """What the operator leaves out comes from the published map."""
    book = PriceBook({"gpt-4o-mini": ModelEntry(window_tokens=1000)})
    model, published = book.find("gpt-4o-mini", own=book.listed("gpt-4o-mini")), BOOK.find("gpt-4o-mini")
    assert model is not None
    assert published is not None
    assert model.window_tokens == 1000
    assert model.price == published.price


def test_a_price_is_its_sellers() -> None:
    """The same name may cost something else elsewhere: with a seller given, nobody else's price counts."""
    assert BOOK.find("gpt-4o-mini", sold_by="openai") is not None
    assert BOOK.find("gpt-4o-mini", sold_by="gemini") is None
    assert BOOK.find("claude-sonnet-4-5", sold_by="anthropic") is not None


def test_tiers_by_range_are_read() -> None:
    """The map's other way of writing tiers, a list of ranges, becomes the same thing."""
    names = [name for name, entry in _published_map().items() if entry.get("tiered_pricing")]
    models = [model for name in names if (model := BOOK.find(name)) is not None and model.price is not None]
    assert models, json.dumps(names[:5])
    assert any(len(model.price.tiers) >= 1 for model in models if model.price is not None)
