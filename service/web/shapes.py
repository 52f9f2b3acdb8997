"""What every shape of the API has in common, and the words that several resources share."""

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.money import NanoUSD, format_usd
from service.web.patterns import USD, USD_IN_WORDS

MAX_QUESTION_CHARS = 32_000
MAX_NAME_CHARS = 1000
MAX_MODEL_CHARS = 200
MAX_CURSOR_CHARS = 200
MOST_TOLD_ERRORS = 100
"""Of one body. More are only counted: a hostile body can have a million, and telling each takes its time."""
NULL = "\0null"
"""Stands for null in examples until the OpenAPI document is made: FastAPI leaves every null out of what it makes."""


def _no_number(value: Any) -> Any:
    """A number is told apart from other mistakes: it is the likely one."""
    if isinstance(value, int | float):
        raise PydanticCustomError("usd_as_number", USD_IN_WORDS)
    return value


UsdText = Annotated[str, StringConstraints(max_length=20, pattern=USD), BeforeValidator(_no_number)]
"""An exact decimal, as a string: never a float."""


class Received(BaseModel):
    """What a client sends: its lists end at their first error, and too many errors in its fields become one."""

    @model_validator(mode="wrap")
    @classmethod
    def _tell_few_errors(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as exc:
            count = exc.error_count()
            if count <= MOST_TOLD_ERRORS:
                raise
        raise PydanticCustomError("too_many_errors", "{count} errors in one object", {"count": count})


class Shape(Received):
    """What a client of this API sends: strict, and nothing that is not asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Shown(BaseModel):
    """What a client gets."""

    model_config = ConfigDict(frozen=True)


def example(*values: dict[str, Any]) -> ConfigDict:
    """The configuration of a shape that is shown in the OpenAPI document with these."""
    return ConfigDict(json_schema_extra={"examples": [_marked(value) for value in values]})


def _marked(value: Any) -> Any:
    match value:
        case None:
            return NULL
        case dict():
            return {name: _marked(each) for name, each in value.items()}
        case list():
            return [_marked(each) for each in value]
        case _:
            return value


class Money(Shown):
    """An amount, twice: for people and exact arithmetic."""

    usd: str = Field(description="Decimal USD.", examples=["0.0123"])
    nano_usd: int = Field(description="Whole nano-USD (10⁻⁹ USD).", examples=[12_300_000])


def money(amount: NanoUSD) -> Money:
    return Money(usd=format_usd(amount).replace("$", "", 1), nano_usd=amount)
