"""What a context looks like on its way in and out."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from service.contexts.json_counts import MOST_VALUES
from service.contexts.open_contexts import OpenContext
from service.contexts.values import Context, Part
from service.web.shapes import MAX_NAME_CHARS, Shape, Shown, example

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]
_CONTENTS = ("text", "texts", "value", "open")

EXAMPLE_OF_CONTEXT: dict[str, Any] = {
    "context_id": "ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607",
    "status": "sealed",
    "name": "tickets",
    "kind": "json",
    "type": "list",
    "length": 2,
    "unit": "items",
    "parts": 1,
    "size_bytes": 32,
    "created_at": 1763640000.0,
}


class GivenContext(Shape):
    """A context that fits into a JSON body, or one whose parts are yet to come: exactly one of `text`, `texts`, `value`
    and `open`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "readme", "text": "The whole text."},
                {"name": "tickets", "texts": ["first ticket", "second ticket"]},
                {"name": "order", "value": {"id": 7, "lines": [1, 2]}},
                {"name": "sources", "open": True},
            ]
        }
    )

    name: Name = Field(default="context", description="For people; shown in lists.")
    text: str = Field(default="", description="Becomes a `str`.")
    texts: Annotated[list[str], Field(fail_fast=True, max_length=MOST_VALUES)] = Field(
        default=[], description="Becomes a `list` of `str`."
    )
    value: Any = Field(default=None, description="JSON; becomes what it is in Python.")
    open: Literal[True] = Field(default=True, description="Becomes a `dict` from name to text, once it is sealed.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set.intersection(_CONTENTS)) != 1:
            raise ValueError("expected exactly one of text, texts, value and open")
        return self

    @property
    def content(self) -> str:
        """Which of them it is."""
        return next(name for name in _CONTENTS if name in self.model_fields_set)


class ShownPart(Shown):
    """One payload of a context."""

    model_config = example(
        {
            "name": "src/main.py",
            "size_bytes": 4,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    )

    name: str
    size_bytes: int
    sha256: str


class ShownContext(Shown):
    """A stored context: which value it becomes in the REPL, and how large it is."""

    model_config = example(EXAMPLE_OF_CONTEXT)

    context_id: str
    status: Literal["open", "sealed"] = Field(description="`open`: its parts are still coming, no run can have it.")
    name: str
    kind: Literal["text", "json", "json_lines", "named_texts"]
    type: str = Field(description="Of the value in the REPL.")
    length: int = Field(description="`len()` of that value; 0 for a scalar.")
    unit: Literal["characters", "items", "keys"]
    parts: int
    size_bytes: int
    created_at: float


def shown_part(part: Part) -> ShownPart:
    return ShownPart(name=part.name, size_bytes=part.size_bytes, sha256=part.sha256)


def shown_context(context: Context) -> ShownContext:
    return ShownContext(
        context_id=context.context_id,
        status="sealed",
        name=context.name,
        kind=context.kind,
        type=context.type_name,
        length=context.length,
        unit=context.unit,
        parts=len(context.parts),
        size_bytes=context.size_bytes,
        created_at=context.created_at,
    )


def shown_open_context(opened: OpenContext) -> ShownContext:
    return ShownContext(
        context_id=opened.context_id,
        status="open",
        name=opened.name,
        kind="named_texts",
        type="dict",
        length=len(opened.parts),
        unit="keys",
        parts=len(opened.parts),
        size_bytes=sum(taken.part.size_bytes for taken in opened.parts),
        created_at=opened.created_at,
    )
