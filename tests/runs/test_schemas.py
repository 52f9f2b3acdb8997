"""JSON Schema from anybody: nothing in it may hang, reach out or raise something untyped."""

import contextlib
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.runs.submission.schemas import ReplyBreaksSchema, check_schema, parse_checked

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
keywords = st.sampled_from(
    ["type", "properties", "items", "required", "enum", "pattern", "$ref", "allOf", "not", "$defs", "minimum", "const"]
)


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "string", "pattern": "(a+)+$"}, "pattern"),
        ({"properties": {"a": {"patternProperties": {".*": {}}}}}, "patternProperties"),
        ({"items": {"$ref": "http://127.0.0.1/x.json"}}, "only refer to parts of itself"),
        ({"$ref": 5}, "only refer to parts of itself"),
        ({"$ref": "#"}, "only refer to parts of itself"),
        ({"$ref": "#/$defs/missing"}, "does not have"),
        ({"items": {"$id": "urn:x", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$defs": {"a": {}}}, "'\\$id' within"),
        ({"type": "strin"}, "not a valid JSON Schema"),
        ({"const": float("nan")}, "not plain JSON"),
        ({"properties": {"a": {"maximum": float("inf")}}}, "not plain JSON"),
        ({"enum": ["x" * 70_000]}, "larger"),
        ({"items": {"required": [{}] * 10_000}}, "takes names"),
        ({"type": [["string"]]}, "takes names"),
        ({"type": ["string"] * 8}, "names 8 types"),
        ({"dependentRequired": {"a": [[]] * 10_000}}, "takes names"),
        ({"dependencies": {"a": [[]] * 10_000}}, "takes names"),
        ({"definitions": {"enum": {"required": [{}] * 10_000}}}, "takes names"),
        ({"definitions": {"enum": {"pattern": "(a+)+$"}}, "$ref": "#/definitions/enum"}, "pattern"),
        ({"default": {"pattern": "(a+)+$"}, "$ref": "#/default"}, "does not have"),
        ({"examples": [{"pattern": "(a+)+$"}], "$ref": "#/examples/0"}, "does not have"),
    ],
)
def test_a_schema_that_could_be_turned_against_us_is_refused(schema: dict[str, Any], word: str) -> None:
    """The sentence names what is wrong."""
    with pytest.raises(BadRequest, match=word):
        check_schema(schema)


@pytest.mark.anyio
async def test_any_schema_and_any_text_end_in_a_value_or_a_typed_refusal() -> None:
    """Nothing else is ever raised."""

    @given(schema=st.dictionaries(keywords, json_values, max_size=4), text=st.text(max_size=200))
    def any_of_them(schema: dict[str, Any], text: str) -> None:
        with contextlib.suppress(BadRequest, ReplyBreaksSchema):
            anyio.from_thread.run(parse_checked, text, check_schema(schema))

    await anyio.to_thread.run_sync(any_of_them)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        {"$defs": {"a": {"properties": {"x": {"$ref": "#/$defs/b"}}}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ],
)
def test_a_recursive_schema_is_refused(schema: dict[str, Any]) -> None:
    """Whether it would loop at once or only along a value."""
    with pytest.raises(BadRequest, match="recursive"):
        check_schema(schema)


@pytest.mark.parametrize("depth", [15, 60])
def test_a_schema_that_doubles_at_every_step_is_refused(depth: int) -> None:
    """A chain of definitions, each twice the next, is two kilobytes long and would take 2ⁿ steps to validate."""
    chain = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)} | {f"d{depth}": True}
    with pytest.raises(BadRequest, match="too complex"):
        check_schema({"$defs": chain, "$ref": "#/$defs/d0"})


@pytest.mark.anyio
async def test_a_value_too_large_for_its_schema_is_not_validated() -> None:
    """The product of both sizes is what bounds the work."""
    schema = check_schema({"type": "array", "items": {"anyOf": [{"const": n} for n in range(1_000)]}})
    with pytest.raises(ReplyBreaksSchema, match="too large"):
        await parse_checked("[" + ",".join(["999"] * 100_000) + "]", schema)


@pytest.mark.anyio
async def test_properties_may_be_named_like_keywords() -> None:
    """A field called `pattern` or `$ref` is a field; the values of an `enum` are data."""
    schema = check_schema(
        {"type": "object", "properties": {"pattern": {"type": "string"}, "$ref": {"enum": [{"pattern": "(a+)+"}]}}}
    )
    assert await parse_checked('{"pattern": "(a+)+$"}', schema) == {"pattern": "(a+)+$"}


@pytest.mark.anyio
async def test_a_fence_around_the_json_is_forgiven() -> None:
    """Models wrap JSON in Markdown."""
    schema = check_schema({"type": "object", "required": ["n"]})
    assert await parse_checked('```json\n{"n": 1}\n```', schema) == {"n": 1}


@pytest.mark.anyio
async def test_arithmetic_that_overflows_breaks_the_schema_and_nothing_else() -> None:
    """A whole number too large for a float meets `multipleOf`."""
    schema = check_schema({"type": "integer", "multipleOf": 0.5})
    with pytest.raises(ReplyBreaksSchema):
        await parse_checked("9" * 400, schema)


@pytest.mark.anyio
@pytest.mark.parametrize("text", ['{"n": NaN}', "[" * 100_000, '{"m": 1}', "", "nope", "x" * 5_000_000])
async def test_a_reply_that_breaks_the_schema_says_how_in_one_line(text: str) -> None:
    """Constants that are not JSON, endless nesting, a missing field, no JSON at all, too much of it."""
    schema = check_schema({"type": "object", "required": ["n"]})
    with pytest.raises(ReplyBreaksSchema) as caught:
        await parse_checked(text, schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
