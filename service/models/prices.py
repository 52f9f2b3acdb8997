"""What a call costs, and the most it can cost: integer arithmetic, rounded up once at the end.

The bound rests on two facts. A call's cost is a sum of token counts times rates, so it is at most the largest
possible count times the dearest rate that can apply. And the count of input tokens can be bounded without the
provider's tokenizer (`input_token_bound`).
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.loop.values import Message, Usage
from service.money import NanoUSD

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Whole nano-USD per million tokens."""

    input: int
    cached_input: int
    """For input tokens that the provider read from its prefix cache."""
    cache_write: int
    """For input tokens that it wrote into that cache; equal to `input` where writing costs nothing extra."""
    output: int
    """For output tokens, reasoning included."""

    @property
    def dearest_input(self) -> int:
        return max(self.input, self.cached_input, self.cache_write)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Rates that replace the base rates, for the whole call, when its input is longer than the threshold."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Rates):
    """What a model costs: its rates, and the tiers for long inputs in ascending order."""

    tiers: tuple[Tier, ...] = ()


def cost(price: Price, usage: Usage) -> NanoUSD:
    """What this usage costs, rounded up once.

    Cached and written tokens are parts of the input; what a provider claims beyond the input is not billed twice.
    """
    rates: Rates = price
    for tier in price.tiers:
        if usage.input_tokens > tier.above_input_tokens:
            rates = tier.rates
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    plain = usage.input_tokens - cached - written
    return _round_up(
        plain * rates.input
        + cached * rates.cached_input
        + written * rates.cache_write
        + usage.output_tokens * rates.output
    )


def bound(price: Price, input_tokens: int, max_output_tokens: int) -> NanoUSD:
    """The most a call can cost that has at most so many input and output tokens.

    For every usage within the two counts, `cost(price, usage) <= bound(price, …)`: each tier that the input can
    reach is considered, and every input token is taken at the dearest of the three input rates.
    """
    reachable: list[Rates] = [price, *(tier.rates for tier in price.tiers if input_tokens > tier.above_input_tokens)]
    dearest_input = max(rates.dearest_input for rates in reachable)
    dearest_output = max(rates.output for rates in reachable)
    return _round_up(input_tokens * dearest_input + max_output_tokens * dearest_output)


MESSAGE_OVERHEAD_TOKENS = 16
"""Role and delimiters of one message; chat templates in use need 3 to 8."""

REQUEST_OVERHEAD_TOKENS = 256
"""What a chat template adds by itself: start tokens, a default system prompt, dates, the reply's opening."""

SCHEMA_OVERHEAD_TOKENS = 512
"""The words with which a provider or an adapter introduces a JSON schema to its model; Anthropic's are the longest."""

COUNTED_AT_ONCE_CHARS = 64 << 10
"""Between two pieces of this length other threads have their turn."""


def input_token_bound(messages: Sequence[Message], schema: dict[str, Any] | None = None) -> int:
    """At least as many tokens as any tokenizer in use makes of these messages.

    Why bytes bound tokens: byte-level BPE starts from the UTF-8 bytes, one token each, and merging only lowers the
    count; SentencePiece vocabularies with byte fallback start from characters and fall back to at most one token
    per byte. So no text has more tokens than bytes. Some tokenizers normalise first (NFC, NFKC), which can
    lengthen text (U+FDFA grows from 3 to 33 bytes), so each character counts at its longest. What is not text
    (roles, delimiters, a template's own words, the frame around a schema) is covered by the overheads above. A
    schema may be rendered with other white space or as type declarations: it is taken twice.
    """
    tokens = REQUEST_OVERHEAD_TOKENS
    for message in messages:
        tokens += MESSAGE_OVERHEAD_TOKENS + _longest_form_bytes(message.content)
    if schema is not None:
        tokens += SCHEMA_OVERHEAD_TOKENS + 2 * _longest_form_bytes(json.dumps(schema, ensure_ascii=False))
    return tokens


def _longest_form_bytes(text: str) -> int:
    """At least the UTF-8 bytes of the text as it is, in NFC and in NFKC, counted without normalising it.

    Normalising takes time with the square of a run of combining marks. But both forms are decomposed character by
    character, put in another order, and composed, and no composition is longer than what it is made of: so the sum
    over the characters of the longest that each can be is a bound.
    """
    if text.isascii():
        return len(text)
    counts: Counter[str] = Counter()
    for start in range(0, len(text), COUNTED_AT_ONCE_CHARS):
        counts.update(text[start : start + COUNTED_AT_ONCE_CHARS])
    return sum(count * _longest_character_bytes(character) for character, count in counts.items())


def _longest_character_bytes(character: str) -> int:
    forms = [character]
    # Syllables of Hangul have no entry: what they decompose into is always composed again.
    if unicodedata.decomposition(character):
        forms += [unicodedata.normalize("NFD", character), unicodedata.normalize("NFKD", character)]
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def _round_up(amount: int) -> NanoUSD:
    return NanoUSD(-(-amount // TOKENS_PER_PRICE))
