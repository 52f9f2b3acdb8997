"""Schemas for constrained decoding."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.models.json_schemas import decodable

NAME = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "narrowed"),
    [
        (closed(a=NAME), closed(a=NAME)),
        ({"type": "object", "properties": {"a": NAME}}, closed(a=NAME)),
        ({"properties": {"a": NAME}}, closed(a=NAME)),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}}, closed(a={"type": "integer"})),
        (closed(a={"type": "string", "format": "date"}), closed(a={"type": "string", "format": "date"})),
        (closed(a={"type": "string", "format": "isbn"}), closed(a=NAME)),
        (closed(a={"oneOf": [NAME, {"type": "null"}]}), closed(a={"anyOf": [NAME, {"type": "null"}]})),
        (closed(a={"type": ["string", "null"]}), closed(a={"type": ["string", "null"]})),
        (closed(a={"enum": ["x", 1, None]}), closed(a={"enum": ["x", 1, None]})),
        (
            closed(a={"type": "array", "items": NAME, "minItems": 7}),
            closed(a={"type": "array", "items": NAME}),
        ),
        ({"type": "object"}, None),
        ({"type": "object", "additionalProperties": NAME}, None),
        ({"type": "array", "items": NAME}, None),
        (closed(a={"$ref": "#"}), None),
        (closed(a={"not": NAME}), None),
        (closed(a={}), None),
        (closed(a=True), None),
        (closed(a={"enum": [[1]]}), None),
        (closed(a={"enum": []}), None),
        (closed(a={"allOf": [closed(a=NAME), closed(b=NAME)]}), None),
        (closed(a={"anyOf": [NAME], "oneOf": [NAME]}), None),
        (closed(a={"type": ["object", "null"], "properties": {"a": NAME}}), None),
        (closed(a={"type": "text"}), None),
        ({**closed(a=NAME), "required": ["b"]}, None),
        ({**closed(a=NAME), "required": "a"}, None),
    ],
)
def test_a_schema_is_narrowed_or_left_alone(schema: dict[str, Any], narrowed: dict[str, Any] | None) -> None:
    """Objects are closed, constraints on values dropped, and what the decoder cannot do is not tried."""
    assert decodable(schema) == narrowed


def test_a_schema_without_end_is_left_alone() -> None:
    """Depth is bounded."""
    schema: dict[str, Any] = closed(a=NAME)
    for _ in range(500):
        schema = closed(a=schema)
    assert decodable(schema) is None


SCALARS = st.sampled_from([NAME, {"type": "integer"}, {"type": "boolean"}, {"type": "null"}, {"enum": ["a", "b"]}])
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner)
        | st.builds(
            lambda properties, required: {
                "type": "object",
                "properties": properties,
                "required": [name for name in required if name in properties],
            },
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
            st.lists(st.sampled_from("abc"), max_size=2, unique=True),
        )
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from("abx"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=6,
)


@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=5))
def test_what_the_decoder_may_write_satisfies_the_schema(schema: dict[str, Any], values: list[Any]) -> None:
    """Without constraints to drop, every value that is valid for the narrowed schema is valid for the original."""
    narrowed = decodable(schema)
    if narrowed is None:
        return
    for value in values:
        if jsonschema.Draft202012Validator(narrowed).is_valid(value):
            jsonschema.validate(value, schema)
