"""The published price map and the operator's models file over it."""

import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from service.errors import BadRequest
from service.models.models_file import ModelEntry, read_models_file
from service.models.price_book import PriceBook, _published_map
from service.models.prices import Price, Rates

BOOK = PriceBook({})

GOOD = """
[models."local/qwen3"]
window_tokens = 40960
max_output_tokens = 8192
input_usd_per_million = "0.10"
cached_input_usd_per_million = "0.05"
output_usd_per_million = "0.30"
may_reason = true
upstream = "Qwen/Qwen3-32B"
base_url = "http://127.0.0.1:8000/v1/"

[models.free]
input_usd_per_million = "0"
output_usd_per_million = "0"

[models.gpt-4o-mini]
window_tokens = 1000
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(text)
    return path


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


def test_a_models_file_is_read(tmp_path: Path) -> None:
    """Every key of an entry arrives, exactly."""
    entries = read_models_file(written(tmp_path, GOOD))
    assert entries["local/qwen3"] == ModelEntry(
        window_tokens=40_960,
        max_output_tokens=8192,
        may_reason=True,
        price=Price(input=100_000_000, cached_input=50_000_000, cache_write=100_000_000, output=300_000_000),
        upstream="Qwen/Qwen3-32B",
        base_url="http://127.0.0.1:8000/v1",
    )
    assert entries["free"].price == Price(input=0, cached_input=0, cache_write=0, output=0)


def test_an_entry_replaces_only_what_it_names(tmp_path: Path) -> None:
    """What the file leaves out comes from the published map."""
    book = PriceBook(read_models_file(written(tmp_path, GOOD)))
    model, published = book.find("gpt-4o-mini", own=book.listed("gpt-4o-mini")), BOOK.find("gpt-4o-mini")
    assert model is not None
    assert published is not None
    assert model.window_tokens == 1000
    assert model.price == published.price


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[models.a]\nwindow_tokens = -1", r"line 2: \[models.\"a\"\] window_tokens: expected a whole number"),
        ("[models.a]\nwindow_tokens = true", "line 2"),
        ("\n[models.a]\ncontext = 5", "line 3.*unknown key 'context'; known are window_tokens"),
        ('[models.a]\ninput_usd_per_million = "0.1"', "line 1.*output_usd_per_million is missing"),
        ('[models.a]\noutput_usd_per_million = "0.1"', "input_usd_per_million is missing"),
        ("[models.a]\ninput_usd_per_million = 0.1", "line 2.*as a string such as"),
        ('[models.a]\ninput_usd_per_million = "cheap"', "line 2.*such as"),
        ('[models.a]\ninput_usd_per_million = "-1"', "line 2.*expected 0 to"),
        ('[models.a]\ninput_usd_per_million = "NaN"', "line 2.*expected 0 to"),
        ('[models.a]\ninput_usd_per_million = "1e99"', "line 2.*expected 0 to"),
        ('[models.a]\nmay_reason = "yes"', "line 2.*true or false"),
        ('[models.a]\nupstream = ""', "line 2.*not empty"),
        ('[models.a]\nbase_url = "localhost:8000"', "line 2.*http"),
        ('[models.a]\nbase_url = "http://me:secret@host/v1"', "without credentials"),
        ('models."a b" = { window_tokens = 0 }', "line 1"),
        ("[models]\na = 5", "expected a table"),
        ("models = 5", "expected tables"),
        ("[prices.a]", "found 'prices' at the top"),
        ("[models.a\n", "is not TOML.*line 1"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    """What cannot be used is refused with the file, the line, the entry and what was expected."""
    path = written(tmp_path, text)
    with pytest.raises(BadRequest, match=complaint) as refused:
        read_models_file(path)
    assert str(path) in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, not UTF-8 and oversized files are told apart."""
    with pytest.raises(BadRequest, match="cannot be read"):
        read_models_file(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(BadRequest, match="UTF-8"):
        read_models_file(tmp_path / "latin.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (5 << 20))
    with pytest.raises(BadRequest, match="at most"):
        read_models_file(tmp_path / "large.toml")


def test_tiers_by_range_are_read() -> None:
    """The map's other way of writing tiers, a list of ranges, becomes the same thing."""
    names = [name for name, entry in _published_map().items() if entry.get("tiered_pricing")]
    models = [model for name in names if (model := BOOK.find(name)) is not None and model.price is not None]
    assert models, json.dumps(names[:5])
    assert any(len(model.price.tiers) >= 1 for model in models if model.price is not None)
