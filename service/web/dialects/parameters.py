"""What clients of other APIs may set. What would change the answer and cannot be honoured is refused by name; what only
tunes a model's sampling, or concerns the provider, is ignored (docs/dialects.md lists both)."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.errors import BadRequest, Fault, RlmServiceError
from service.ids import ContextId, is_id
from service.money import NanoUSD, parse_usd
from service.web.shapes import MAX_MODEL_CHARS, Received, Shape, UsdText

DIALECT_BODY_BYTES = 64 << 20
MOST_MESSAGES = 10_000
MOST_MESSAGE_PARTS = 1_000
MOST_PARTS = 10_000
"""Of all messages of a request: what each costs to look at holds up others."""
MOST_CONTEXTS = 500

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_CHARS)]


class UnsupportedParameter(RlmServiceError):
    """The request sets something that would change its answer and that this service does not do."""

    code = "unsupported_parameter"
    fault = Fault.CALLER


class Lenient(Received):
    """What a client of another API sends: it has more members than anybody here knows."""

    model_config = ConfigDict(extra="allow", frozen=True)


class SaysMessages(Lenient):
    """A request with messages, whatever their member is called, each of them a text or a list of parts."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_parts(cls, value: Any) -> Any:
        """Before any part is looked at."""
        for items in (value.get("messages"), value.get("input")) if isinstance(value, dict) else ():
            if (parts := _parts_in(items)) > MOST_PARTS:
                raise PydanticCustomError(
                    "too_many_parts",
                    "the messages have {parts} parts in all, and at most {most} are looked at: join small texts",
                    {"parts": parts, "most": MOST_PARTS},
                )
        return value


def _parts_in(items: object) -> int:
    if not isinstance(items, list):
        return 0
    contents = (item.get("content") for item in items if isinstance(item, dict))
    return sum(len(content) for content in contents if isinstance(content, list))


class RlmOptions(Shape):
    """What is this service's own: the member `rlm` of a request (`extra_body` in the SDKs)."""

    context_ids: Annotated[list[str], Field(fail_fast=True, max_length=MOST_CONTEXTS)] = Field(
        default_factory=list, description="Stored contexts that the question is about."
    )
    root_model: ModelName | None = Field(default=None, description="Instead of the profile's root LM.")
    sub_model: ModelName | None = Field(default=None, description="Instead of the profile's model of sub-calls.")
    cost_usd: UsdText | None = Field(default=None, description="Instead of the profile's budget.")

    @property
    def cost(self) -> NanoUSD | None:
        """Raises `BadRequest`."""
        try:
            return None if self.cost_usd is None else parse_usd(self.cost_usd)
        except ValueError as error:
            raise BadRequest(f"rlm.cost_usd: {error}", data={"param": "rlm.cost_usd"}) from None


def refuse_unsupported(given: Lenient, harmless: Mapping[str, Iterable[Any]]) -> None:
    """Raises `UnsupportedParameter` for the first parameter of `harmless` whose value is none of those it names."""
    sent = given.model_extra or {}
    for name, values in harmless.items():
        value = sent.get(name)
        if value is not None and not any(value == each and type(value) is type(each) for each in values):
            raise unsupported(name)


def unsupported(name: str, instead: str = "leave it out") -> UnsupportedParameter:
    return UnsupportedParameter(f"{name} is not supported here: {instead}", data={"param": name})


def context_id(text: object, where: str) -> ContextId:
    """The id of a stored context, which is what a file's id is. Raises `BadRequest`."""
    if not isinstance(text, str) or not is_id(text, "ctx"):
        raise BadRequest(f"{where}: expected the id of a stored context or file, such as ctx_…", data={"param": where})
    return ContextId(text)
