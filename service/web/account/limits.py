"""Limits of tenants and keys on their way in and out. Money is decimal USD there, as everywhere in the API."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from service.errors import BadRequest
from service.money import MAX_NANO_USD, NanoUSD, parse_usd
from service.tenants.values import LIMIT_NAMES, MAX_PER_MINUTE, CallerLimits, limit
from service.web.shapes import Shape, Shown, UsdText, example, money

_MONEY = {"usd_per_day": "nano_usd_per_day", "usd_per_month": "nano_usd_per_month"}
_COUNTS = tuple(name for name in LIMIT_NAMES if name not in _MONEY.values())

Count = Annotated[int, Field(ge=0, le=MAX_NANO_USD)] | None
PerMinute = Annotated[int, Field(ge=0, le=MAX_PER_MINUTE)] | None


class GivenLimits(Shape):
    """What somebody may have at most. What is left out stays as it is; null lifts a limit."""

    model_config = example({"usd_per_day": "25.00", "parallel_runs": 8, "requests_per_minute": 600})

    parallel_runs: Count = Field(default=None, description="Runs that are being worked on.")
    queued_runs: Count = Field(default=None, description="Runs that wait for their turn.")
    sandboxes: Count = Field(default=None, description="Sandboxes in use, child runs' and sessions' included.")
    model_calls: Count = Field(default=None, description="Model calls in flight.")
    requests_per_minute: PerMinute = Field(default=None, description="HTTP requests.")
    tokens_per_minute: PerMinute = Field(default=None, description="Tokens to and from models.")
    open_sessions: Count = Field(default=None, description="Sessions that are not closed.")
    open_contexts: Count = Field(default=None, description="Contexts that are not deleted.")
    storage_bytes: Count = Field(default=None, description="What is stored twice counts once.")
    usd_per_day: UsdText | None = Field(default=None, description="Decimal USD; a day begins at midnight UTC.")
    usd_per_month: UsdText | None = Field(default=None, description="Decimal USD.")

    def over(self, limits: CallerLimits) -> CallerLimits:
        """These limits laid over those that there are.

        Raises:
            BadRequest: an amount cannot be one.
        """
        changed: dict[str, int | None] = {}
        for name in self.model_fields_set:
            given: int | str | None = getattr(self, name)
            changed[_MONEY.get(name, name)] = _nano_usd(name, given) if isinstance(given, str) else given
        return replace(limits, **changed)


def _nano_usd(name: str, text: str) -> NanoUSD:
    try:
        return parse_usd(text)
    except ValueError as error:
        raise BadRequest(f"limits.{name}: {error}", data={"param": f"limits.{name}"}) from None


class ShownLimits(Shown):
    """What somebody may have at most; null is no limit of its own."""

    parallel_runs: int | None
    queued_runs: int | None
    sandboxes: int | None
    model_calls: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    open_sessions: int | None
    open_contexts: int | None
    storage_bytes: int | None
    usd_per_day: str | None = Field(description="Decimal USD.")
    usd_per_month: str | None = Field(description="Decimal USD.")


EXAMPLE_OF_LIMITS: dict[str, int | str | None] = {
    **dict.fromkeys(_COUNTS),
    **dict.fromkeys(_MONEY),
    "parallel_runs": 8,
    "requests_per_minute": 600,
    "usd_per_day": "25.00",
}


def shown_limits(limits: CallerLimits) -> ShownLimits:
    counts = {name: limit(limits, name) for name in _COUNTS}
    amounts = {name: limit(limits, nano) for name, nano in _MONEY.items()}
    in_usd = {name: None if each is None else money(NanoUSD(each)).usd for name, each in amounts.items()}
    return ShownLimits.model_validate(counts | in_usd)
