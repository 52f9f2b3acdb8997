"""What a context looks like on its way in and out."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from service.contexts.values import Context
from service.web.shapes import MAX_NAME_CHARS, Shape, Shown

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]


class InlineContext(Shape):
    """A context that fits into a JSON body: exactly one of `text`, `texts` and `value`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "readme", "text": "The whole text."},
                {"name": "tickets", "texts": ["first ticket", "second ticket"]},
                {"name": "order", "value": {"id": 7, "lines": [1, 2]}},
            ]
        }
    )

    name: Name = Field(default="context", description="For people; shown in lists.")
    text: str | None = Field(default=None, description="Becomes a `str`.")
    texts: list[str] | None = Field(default=None, description="Becomes a `list` of `str`.")
    value: Any = Field(default=None, description="JSON; becomes what it is in Python.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = self.model_fields_set & {"text", "texts", "value"}
        if len(given) != 1:
            raise ValueError("expected exactly one of text, texts and value")
        if getattr(self, next(iter(given))) is None and given != {"value"}:
            raise ValueError(f"{next(iter(given))} must not be null")
        return self


class ShownContext(Shown):
    """A stored context: which value it becomes in the REPL, and how large it is."""

    context_id: str = Field(examples=["ctx_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    name: str
    kind: Literal["text", "json", "json_lines", "named_texts"]
    type: str = Field(description="Of the value in the REPL.", examples=["str"])
    length: int = Field(description="`len()` of that value; 0 for a scalar.")
    unit: Literal["characters", "items", "keys"]
    parts: int
    size_bytes: int
    created_at: float


def shown_context(context: Context) -> ShownContext:
    return ShownContext(
        context_id=context.context_id,
        name=context.name,
        kind=context.kind,
        type=context.type_name,
        length=context.length,
        unit=context.unit,
        parts=len(context.parts),
        size_bytes=context.size_bytes,
        created_at=context.created_at,
    )
