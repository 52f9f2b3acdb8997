"""Money arithmetic: costs and their bounds."""

import unicodedata
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import Message, Usage
from service.models.prices import (
    MESSAGE_OVERHEAD_TOKENS,
    REQUEST_OVERHEAD_TOKENS,
    Price,
    Rates,
    Tier,
    bound,
    cost,
    input_token_bound,
)

RATE = st.integers(min_value=0, max_value=10**12)
COUNT = st.integers(min_value=0, max_value=10**9)


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    return Rates(input=draw(RATE), cached_input=draw(RATE), cache_write=draw(RATE), output=draw(RATE))


@st.composite
def prices(draw: st.DrawFn) -> Price:
    base = draw(rates())
    thresholds = sorted(draw(st.sets(st.integers(min_value=0, max_value=10**6), max_size=3)))
    tiers = tuple(Tier(above_input_tokens=threshold, rates=draw(rates())) for threshold in thresholds)
    return Price(
        input=base.input,
        cached_input=base.cached_input,
        cache_write=base.cache_write,
        output=base.output,
        tiers=tiers,
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    return Usage(
        input_tokens=draw(COUNT),
        cached_input_tokens=draw(COUNT),
        cache_write_tokens=draw(COUNT),
        output_tokens=draw(COUNT),
    )


@given(prices(), usages(), COUNT, COUNT)
def test_the_bound_bounds(price: Price, usage: Usage, more_input: int, more_output: int) -> None:
    """A call that stays within its counts never costs more than its bound, whatever the tiers and the cache did."""
    assert cost(price, usage) <= bound(price, usage.input_tokens + more_input, usage.output_tokens + more_output)


@given(prices(), usages())
def test_a_cost_is_rounded_up_once(price: Price, usage: Usage) -> None:
    """The cost is the exact sum, rounded up to the next whole nano-USD and no further."""
    applied: Rates = price
    for tier in price.tiers:
        applied = tier.rates if usage.input_tokens > tier.above_input_tokens else applied
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    exact = Fraction(
        (usage.input_tokens - cached - written) * applied.input
        + cached * applied.cached_input
        + written * applied.cache_write
        + usage.output_tokens * applied.output,
        1_000_000,
    )
    assert 0 <= cost(price, usage) - exact < 1


@given(prices(), COUNT, COUNT, COUNT)
def test_bounds_grow_with_their_counts(price: Price, input_tokens: int, output_tokens: int, more: int) -> None:
    """A longer prompt or a larger output limit never has a smaller bound."""
    least = bound(price, input_tokens, output_tokens)
    assert least <= bound(price, input_tokens + more, output_tokens)
    assert least <= bound(price, input_tokens, output_tokens + more)


def test_a_long_input_pays_the_dearer_rates_throughout() -> None:
    """Above its threshold a tier replaces the rates of the whole call; at the threshold it does not."""
    tier = Tier(above_input_tokens=100, rates=Rates(input=2_000_000, cached_input=0, cache_write=0, output=4_000_000))
    price = Price(input=1_000_000, cached_input=0, cache_write=0, output=2_000_000, tiers=(tier,))
    assert cost(price, Usage(input_tokens=100, output_tokens=1)) == 102
    assert cost(price, Usage(input_tokens=101, output_tokens=1)) == 206


def test_nothing_is_ever_free_by_rounding() -> None:
    """One token at the smallest price costs one nano-USD."""
    price = Price(input=1, cached_input=1, cache_write=1, output=1)
    assert cost(price, Usage(input_tokens=1)) == 1
    assert cost(price, Usage()) == 0


@given(st.lists(st.text(max_size=200), max_size=4))
def test_no_tokenizer_makes_more_tokens_than_bytes(texts: list[str]) -> None:
    """The bound counts at least the UTF-8 bytes of the text as it is and as normalising tokenizers see it."""
    messages = [Message(role="user", content=text) for text in texts]
    for form in (None, "NFC", "NFKC"):
        seen = texts if form is None else [unicodedata.normalize(form, text) for text in texts]
        size_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in seen)
        assert (
            input_token_bound(messages) >= size_bytes + REQUEST_OVERHEAD_TOKENS + len(texts) * MESSAGE_OVERHEAD_TOKENS
        )


@pytest.mark.parametrize("text", ["\ufdfa" * 10, "\u0958" * 10, "\U0001d160" * 10, "\ud800"])
def test_text_that_grows_when_normalised_is_bounded(text: str) -> None:
    """Characters that become longer under NFC or NFKC, and lone surrogates, are counted at their longest."""
    longest = max(len(unicodedata.normalize(form, text).encode("utf-8", "surrogatepass")) for form in ("NFC", "NFKC"))
    assert input_token_bound([Message(role="user", content=text)]) >= longest


def test_every_character_counts_by_itself() -> None:
    """The bound of a text is the sum over its characters, so that the time to tell it grows with the length alone."""
    characters = ["\ufb01", "\u0958", "e", "\u0301", "\u0323", "\uac01", "\u1100", "\u1161"]

    def counted(text: str) -> int:
        return input_token_bound([Message(role="user", content=text)]) - input_token_bound([])

    alone = sum(counted(character) - MESSAGE_OVERHEAD_TOKENS for character in characters)
    assert counted("".join(characters)) - MESSAGE_OVERHEAD_TOKENS == alone


@given(st.text(alphabet="aeo\u00e9\u0323\u0302\u0301\u1ed9\ufb01\u0958\uff9e\uac00\uac01\u1100\u1161\u11a8"))
def test_no_order_of_marks_grows_beyond_the_bound(text: str) -> None:
    """Letters, marks and jamo that are taken apart and composed in another way are within the bound."""
    longest = max(len(unicodedata.normalize(form, text).encode()) for form in ("NFC", "NFKC"))
    assert input_token_bound([Message(role="user", content=text)]) - input_token_bound([]) >= longest


def test_no_code_point_is_an_exception() -> None:
    """What has no decomposition stays as it is, and no composition is longer than its parts: so the bound holds."""
    every = [chr(point) for point in range(0x110000)]
    hangul = range(0xAC00, 0xD7A4)
    plain = [each for each in every if not unicodedata.decomposition(each) and ord(each) not in hangul]
    joined = "a".join(plain)
    assert all(unicodedata.is_normalized(form, joined) for form in ("NFD", "NFKD"))
    for composed in (each for each in every if unicodedata.decomposition(each)[:1] not in ("", "<")):
        parts = "".join(chr(int(part, 16)) for part in unicodedata.decomposition(composed).split())
        if unicodedata.normalize("NFC", parts) == composed:
            assert len(composed.encode()) <= len(parts.encode())


def test_a_schema_counts() -> None:
    """A schema is part of the prompt, whatever a provider makes of it."""
    message = [Message(role="user", content="x")]
    schema = {"type": "object", "properties": {"name": {"type": "string", "description": "é" * 100}}}
    assert input_token_bound(message, schema) - input_token_bound(message) > 2 * 200
