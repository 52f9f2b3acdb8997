"""JSON Schema narrowed to what a provider's constrained decoding takes. Pure.

Such decoders take a small language: closed objects, arrays, alternatives, enumerations; no recursion, no open maps, no
numeric or length constraints, and they refuse a request that uses more. A schema inside that language goes to the
decoder; one that can be *narrowed* into it does too: objects that list their properties are closed, and constraints
that only cut down values further are left to the caller of the port, who validates every reply. What can be neither
is asked for in words.

What stands in a schema as data (`default`, `const`, `enum`, `examples`) may look like a schema and is none: nothing
here descends into it.
"""

from collections.abc import Iterator
from typing import Any

_DROPPED = frozenset(
    {
        "$schema", "$id", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "pattern", "maxItems", "uniqueItems",
    }
)  # fmt: skip
"""Annotations, and constraints on single values: without them more is valid, and the caller sorts it out."""
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_MOST_DEPTH = 32
_WITH_A_SCHEMA = (
    *("items", "additionalItems", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_WITH_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_WITH_NAMED_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


class _NotDecodable(Exception):
    pass


def decodable(schema: dict[str, Any]) -> dict[str, Any] | None:
    """A schema for the decoder, of which a valid reply is a reply to the original but for dropped constraints.

    None when there is none: maps with free keys, references, `not`, conditions, tuples, a root that is no object.
    """
    try:
        narrowed = _narrowed(schema, 0)
    except _NotDecodable:
        return None
    return narrowed if narrowed.get("type") == "object" else None


def schemas_within(schema: object) -> Iterator[dict[str, Any]]:
    """The schema and every schema inside it; `true` and `false` say nothing and are left out."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict):
            continue
        yield one
        waiting += [one.get(key) for key in _WITH_A_SCHEMA]
        waiting += [each for key in _WITH_SCHEMAS if isinstance(found := one.get(key), list) for each in found]
        waiting += [
            each for key in _WITH_NAMED_SCHEMAS if isinstance(found := one.get(key), dict) for each in found.values()
        ]


def _narrowed(schema: object, depth: int) -> dict[str, Any]:
    if not isinstance(schema, dict) or depth > _MOST_DEPTH:
        raise _NotDecodable
    narrowed: dict[str, Any] = {}
    for key, value in schema.items():
        narrowed |= _keyword(key, value, depth)
    if narrowed.get("type") == "object" or "properties" in schema:
        narrowed |= _closed_object(schema, depth)
    if not narrowed.keys() & {"type", "enum", "const", "anyOf"} or {"anyOf", "oneOf"} <= schema.keys():
        raise _NotDecodable  # "anything", or two sets of alternatives at once
    return narrowed


def _keyword(key: str, value: object, depth: int) -> dict[str, Any]:
    """What becomes of one keyword; nothing of those that only cut values down."""
    match key, value:
        case "type", _:
            return {key: _types(value)}
        case "enum", [_, *_] if all(map(_is_scalar, value)):
            return {key: value}
        case "const", _ if _is_scalar(value):
            return {key: value}
        case "anyOf" | "oneOf", [_, *_]:
            return {"anyOf": [_narrowed(each, depth + 1) for each in value]}
        case "items", _:
            return {key: _narrowed(value, depth + 1)}
        case "format", _:
            return {key: value} if value in _FORMATS else {}
        case "minItems", _:
            return {key: value} if value in (0, 1) else {}
        case "properties" | "required" | "additionalProperties", _:
            return {}  # an object's, which `_closed_object` reads together
        case (("title" | "description"), _):
            return {key: value}
    if key in _DROPPED:
        return {}
    raise _NotDecodable


def _closed_object(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not properties or schema.get("type", "object") != "object":
        raise _NotDecodable
    if not isinstance(required, list) or not all(name in properties for name in required):
        raise _NotDecodable
    return {
        "type": "object",
        "properties": {name: _narrowed(value, depth + 1) for name, value in properties.items()},
        "required": required,
        "additionalProperties": False,
    }


def _types(value: object) -> object:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise _NotDecodable
    if isinstance(value, list) and "object" in value:
        raise _NotDecodable
    return value


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
