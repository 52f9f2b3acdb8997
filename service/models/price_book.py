"""Where windows and prices come from: LiteLLM's published map, and over it the operator's own entries.

LiteLLM is never imported here (that costs seconds and 200 MB): its map is a JSON file in the wheel, found beside the
package without executing it. Prices are read as decimals, never as floats, and become whole nano-USD per million
tokens, rounded up where a published price is finer.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service.errors import RlmServiceError
from service.models.entries import ModelEntry
from service.models.prices import Price, Rates, Tier

MAP_FILE = "model_prices_and_context_window_backup.json"
"""Its name inside the `litellm` wheel; a test fails when a new release moves it."""

TEXT_MODES = frozenset({"chat", "completion", "responses"})

NANO_PER_MILLION = Decimal(10) ** 15
"""From USD per token to nano-USD per million tokens."""

_FEES = ("input_cost_per_request", "output_cost_per_request", "citation_cost_per_token")
_ALWAYS_SEARCHES = re.compile(r"(?:^|[/-])(?:sonar|search|deep-research|online)(?:$|[-:])")
"""Models that search the web whether they are asked to or not, and bill that beside their tokens. Only names tell: the
map gives a fee per search to hundreds of models that search when a request says so, which ours never does."""

DEFAULT_OUTPUT_TOKENS = 4096
"""Where a price is published and no output limit is."""


class PriceMapUnreadable(RlmServiceError):
    """The price map is missing from the installation, so no model can be priced from it."""

    code = "price_map_unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class BookedModel:
    """All the book has on one model. None stands for what nobody has said."""

    window_tokens: int | None
    max_output_tokens: int | None
    may_reason: bool
    price: Price | None
    has_fees: bool = False
    """Whether a call costs more than its tokens, so that the published rates are no price."""


class PriceBook:
    """Looks models up by name; the operator's entries replace, field by field, those of the published map."""

    def __init__(self, entries: Mapping[str, ModelEntry]) -> None:
        self._entries = entries

    def __repr__(self) -> str:
        return f"<PriceBook {len(self._entries)} own entries over LiteLLM's map>"

    @property
    def own_names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def listed(self, *names: str) -> ModelEntry | None:
        """The operator's own entry under the first of these names that has one."""
        return next((self._entries[name] for name in names if name in self._entries), None)

    def find(self, *names: str, own: ModelEntry | None = None, sold_by: str | None = None) -> BookedModel | None:
        """What the map says under the first of these names that it has, with `own` laid over it.

        With `sold_by`, only what that provider sells counts: the same name may cost something else elsewhere.
        """
        published = next((model for name in names if (model := _published_model(name, sold_by)) is not None), None)
        return published if own is None else _overridden(published, own)

    def names(self) -> Iterator[str]:
        """Every name that is known, for suggestions."""
        yield from self._entries
        yield from (name for name, entry in _published_map().items() if _is_text_model(entry))


def _overridden(published: BookedModel | None, entry: ModelEntry) -> BookedModel:
    known = published or BookedModel(window_tokens=None, max_output_tokens=None, may_reason=False, price=None)
    return replace(
        known,
        window_tokens=entry.window_tokens or known.window_tokens,
        max_output_tokens=entry.max_output_tokens or known.max_output_tokens,
        may_reason=known.may_reason if entry.may_reason is None else entry.may_reason,
        price=entry.price or known.price,
    )


@cache
def _published_map() -> dict[str, dict[str, Any]]:
    """The map as it is published: some 4,000 entries, 3 MB, 25 ms once per process and only when a model is priced."""
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        raise PriceMapUnreadable("the price map comes with the package litellm, which is not installed: install it")
    path = Path(spec.origin).parent / MAP_FILE
    try:
        entries = json.loads(path.read_bytes(), parse_float=Decimal)
    except (OSError, ValueError) as exc:
        raise PriceMapUnreadable(f"expected the price map at {path}, which cannot be read: reinstall litellm") from exc
    return {name: entry for name, entry in entries.items() if name != "sample_spec" and isinstance(entry, dict)}


def _is_text_model(entry: dict[str, Any]) -> bool:
    return entry.get("mode") in TEXT_MODES


def _published_model(name: str, sold_by: str | None) -> BookedModel | None:
    entry = _published_map().get(name)
    if entry is None or not _is_text_model(entry):
        return None
    # A provider's several protocols are spelled after its name: bedrock_converse, vertex_ai-anthropic_models.
    if sold_by is not None and not str(entry.get("litellm_provider")).startswith(sold_by):
        return None
    has_fees = _ALWAYS_SEARCHES.search(name) is not None or any(_rate(entry, fee) for fee in _FEES)
    window = _tokens(entry, "max_input_tokens") or _tokens(entry, "max_tokens")
    output = _tokens(entry, "max_output_tokens") or _tokens(entry, "max_tokens")
    return BookedModel(
        window_tokens=window,
        max_output_tokens=min(output or DEFAULT_OUTPUT_TOKENS, window or DEFAULT_OUTPUT_TOKENS),
        may_reason=entry.get("supports_reasoning") is True,
        price=None if has_fees else _published_price(entry),
        has_fees=has_fees,
    )


def _published_price(entry: dict[str, Any]) -> Price | None:
    """None when there is no price, and also when it is 0: in the map that means a subscription or that nobody knew."""
    ranges = entry.get("tiered_pricing")
    if isinstance(ranges, list) and ranges:
        return _price_of_ranges(ranges)
    base = _rates(entry, "", instead=None)
    if base is None or max(base.dearest_input, base.output) == 0:
        return None
    tiers = [
        Tier(above_input_tokens=threshold * 1000, rates=rates)
        for threshold in _thresholds(entry)
        if (rates := _rates(entry, f"_above_{threshold}k_tokens", instead=base)) is not None
    ]
    return _price(base, tiers)


def _price_of_ranges(ranges: list[Any]) -> Price | None:
    tiers: list[Tier] = []
    for one in ranges:
        span = one.get("range") if isinstance(one, dict) else None
        rates = _rates(one, "", instead=None) if isinstance(span, list) and span else None
        if rates is None or not isinstance(span, list):
            return None
        tiers.append(Tier(above_input_tokens=int(span[0]), rates=rates))
    tiers.sort(key=lambda tier: tier.above_input_tokens)
    return _price(tiers[0].rates, tiers[1:])


def _price(base: Rates, tiers: list[Tier]) -> Price:
    return Price(
        input=base.input,
        cached_input=base.cached_input,
        cache_write=base.cache_write,
        output=base.output,
        tiers=tuple(tiers),
    )


def _thresholds(entry: dict[str, Any]) -> list[int]:
    """The thresholds, in thousands of tokens, of an entry's dearer rates for long inputs."""
    found: set[int] = set()
    for key in entry:
        for start in ("input_cost_per_token_above_", "output_cost_per_token_above_"):
            number = key.removeprefix(start).removesuffix("k_tokens")
            if key.startswith(start) and number.isdecimal():
                found.add(int(number))
    return sorted(found)


def _rates(entry: dict[str, Any], suffix: str, *, instead: Rates | None) -> Rates | None:
    """The four rates under keys with this suffix; what a tier leaves out is as in `instead`, its base.

    A cached or written token without a price of its own is an ordinary input token. Where reasoning has its own,
    dearer price, it is taken for all output, since usage does not always tell the two apart.
    """
    input_rate = _rate(entry, f"input_cost_per_token{suffix}")
    output = _rate(entry, f"output_cost_per_token{suffix}")
    if instead is not None:
        input_rate = instead.input if input_rate is None else input_rate
        output = instead.output if output is None else output
    if input_rate is None or output is None:
        return None
    reasoning = _rate(entry, f"output_cost_per_reasoning_token{suffix}")
    cached = _rate(entry, f"cache_read_input_token_cost{suffix}")
    written = _rate(entry, f"cache_creation_input_token_cost{suffix}")
    return Rates(
        input=input_rate,
        cached_input=input_rate if cached is None else cached,
        cache_write=input_rate if written is None else written,
        output=max(output, reasoning or 0),
    )


def _rate(entry: dict[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, Decimal | int) or value < 0:
        return None
    return int((Decimal(value) * NANO_PER_MILLION).to_integral_value(ROUND_CEILING))


def _tokens(entry: dict[str, Any], key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
