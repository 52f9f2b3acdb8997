"""JSON Schema from anybody: nothing in it may hang, reach out or raise something untyped."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.runs.schemas import ReplyBreaksSchema, check_schema, parse_checked

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
        ({"items": [{"$ref": "http://127.0.0.1/x.json"}]}, "only refer to itself"),
        ({"$ref": 5}, "only refer to itself"),
        ({"type": "strin"}, "not a valid JSON Schema"),
        ({"enum": ["x" * 70_000]}, "larger"),
    ],
)
def test_a_schema_that_could_be_turned_against_us_is_refused(schema: dict[str, Any], word: str) -> None:
    """The sentence names what is wrong."""
    with pytest.raises(BadRequest, match=word):
        check_schema(schema)


@given(schema=st.dictionaries(keywords, json_values, max_size=4), text=st.text(max_size=200))
def test_any_schema_and_any_text_end_in_a_value_or_a_typed_refusal(schema: dict[str, Any], text: str) -> None:
    """Nothing else is ever raised."""
    with contextlib.suppress(BadRequest, ReplyBreaksSchema):
        parse_checked(text, check_schema(schema))


def test_a_schema_that_refers_to_itself_for_ever_is_a_refusal_not_a_crash() -> None:
    """Endless recursion ends as a reply that breaks the schema."""
    validator = check_schema({"$ref": "#"})
    with pytest.raises(ReplyBreaksSchema):
        parse_checked("1", validator)


def test_a_fence_around_the_json_is_forgiven() -> None:
    """Models wrap JSON in Markdown."""
    validator = check_schema({"type": "object", "required": ["n"]})
    assert parse_checked('```json\n{"n": 1}\n```', validator) == {"n": 1}


@pytest.mark.parametrize("text", ['{"n": NaN}', "[" * 100_000, '{"m": 1}', "", "nope", "x" * 5_000_000])
def test_a_reply_that_breaks_the_schema_says_how_in_one_line(text: str) -> None:
    """Constants that are not JSON, endless nesting, a missing field, no JSON at all, too much of it."""
    validator = check_schema({"type": "object", "required": ["n"]})
    with pytest.raises(ReplyBreaksSchema) as caught:
        parse_checked(text, validator)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
