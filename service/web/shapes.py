"""What every shape of the API has in common, and the words that several resources share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.money import NanoUSD, format_usd

MAX_QUESTION_CHARS = 32_000
MAX_NAME_CHARS = 1000
MAX_MODEL_CHARS = 200
MAX_CURSOR_CHARS = 200
USD = r"^[0-9]{1,7}(\.[0-9]{1,9})?$"

UsdText = Annotated[str, StringConstraints(max_length=20, pattern=USD)]
"""An exact decimal, as a string: never a float."""


class Shape(BaseModel):
    """What a client sends: strict, and nothing that is not asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Shown(BaseModel):
    """What a client gets."""

    model_config = ConfigDict(frozen=True)


def example(*values: dict[str, Any]) -> ConfigDict:
    """The configuration of a shape that is shown in the OpenAPI document with these."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


class Money(Shown):
    """An amount, twice: for people and exact arithmetic."""

    usd: str = Field(description="Decimal USD.", examples=["0.0123"])
    nano_usd: int = Field(description="Whole nano-USD (10⁻⁹ USD).", examples=[12_300_000])


def money(amount: NanoUSD) -> Money:
    return Money(usd=format_usd(amount).replace("$", "", 1), nano_usd=amount)
