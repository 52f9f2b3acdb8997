"""Money is a whole number of nano-USD (10⁻⁹ USD), never a float.

Prices are whole nano-USD per *million* tokens, because hundreds of published prices are a fraction of
a nano-USD per token. A call's cost is rounded up exactly once, at the end (`models.prices`).
"""

from decimal import Decimal, InvalidOperation
from typing import NewType

NanoUSD = NewType("NanoUSD", int)

NANO_PER_USD = 1_000_000_000

MAX_NANO_USD = 2**53 - 1
"""The store's scripts compute with doubles, so no amount or limit may pass 2⁵³ (about 9 million USD)."""


def parse_usd(text: str) -> NanoUSD:
    """Read a decimal USD amount such as `0.50` exactly.

    Raises:
        ValueError: not a plain non-negative decimal, finer than a nano-USD, or above `MAX_NANO_USD`.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$")) * NANO_PER_USD
    except InvalidOperation:
        raise ValueError(f"expected an amount in USD such as 0.50, found {text!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"expected an amount of 0 USD or more, found {text!r}")
    if amount != amount.to_integral_value():
        raise ValueError(f"{text!r} is finer than one nano-USD (0.000000001), which is the smallest amount")
    if amount > MAX_NANO_USD:
        raise ValueError(f"{text!r} is above the largest amount, {format_usd(NanoUSD(MAX_NANO_USD))}")
    return NanoUSD(int(amount))


def format_usd(amount: NanoUSD) -> str:
    """`$0.0012` for people: exact, without trailing zeros beyond the cents."""
    sign = "-" if amount < 0 else ""
    whole, nanos = divmod(abs(amount), NANO_PER_USD)
    decimals = f"{nanos:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole}.{decimals}"
