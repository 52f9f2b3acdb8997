"""JSON Schema from callers and sandboxes: checked before use, so that validating cannot be turned against us.

A schema is code of a kind. `pattern` runs a regular expression that may take exponential time, `$ref` may name a remote
document, itself or what was never looked at: these are refused. Checking the schema has its price too: lists in which
nothing may stand twice are compared pair by pair, unless all in them are strings. What is left could still multiply (a
reference to two references to two …), so the schema's expanded size is counted beforehand, and its product with the
size of the value bounds the work.
"""

import json
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import jsonschema
import referencing
from jsonschema.protocols import Validator

from sandbox_image.protocol import MAX_SCHEMA_CHARS
from service.errors import BadRequest

MAX_EXPANDED_NODES = 5_000
"""Of the schema with every reference replaced by what it refers to."""
MAX_CHECKED_CHARS = 4_000_000
MAX_STEPS = 2_000_000
"""Nodes of the schema times nodes of the value: a few seconds at the most, in a thread."""
STEPS_AT_ONCE = 5_000
"""As many as may be taken in the event loop."""

_REFUSED_KEYWORDS = frozenset(
    {
        *("pattern", "patternProperties", "uniqueItems"),
        *("$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties"),
    }
)
_NAMED_PARTS = ("properties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords whose value is a dict from free names to schemas."""
_JSON_TYPES = 7
_PLAIN_VALUES = ("enum", "const", "default", "examples")
"""Keywords whose value is data, whatever it looks like."""


class ReplyBreaksSchema(Exception):
    """The text is not JSON, or not of the asked shape. The message is one line and may be shown to a model."""


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """A schema that may be validated against, and how many nodes one validation can visit per node of the value."""

    validator: Validator
    expanded_nodes: int


def check_schema(schema: dict[str, Any]) -> CheckedSchema:
    """A schema that may come from anybody, ready for use.

    Raises:
        BadRequest: not a JSON Schema, too large, recursive, or using a keyword that is refused here.

    It may take a good part of a second: in the event loop, ask `check_schema_aside`.
    """
    try:
        if len(json.dumps(schema, allow_nan=False)) > MAX_SCHEMA_CHARS:
            raise BadRequest(f"the JSON schema is larger than {MAX_SCHEMA_CHARS} characters")
        seen = _refuse_keywords(schema)
        jsonschema.Draft202012Validator.check_schema(schema)
        expanded = _Expansion(schema, seen).nodes(schema, ())
    except jsonschema.SchemaError as exc:
        raise BadRequest(f"not a valid JSON Schema: {_one_line(exc.message)}") from exc
    except (RecursionError, ValueError, TypeError, ArithmeticError) as exc:
        raise BadRequest("not a usable JSON Schema: nested too deeply, or not plain JSON") from exc
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    return CheckedSchema(validator=validator, expanded_nodes=expanded)


async def check_schema_aside(schema: dict[str, Any]) -> CheckedSchema:
    """The same in a thread. Raises `BadRequest`."""
    return await anyio.to_thread.run_sync(check_schema, schema)


async def parse_checked(text: str, schema: CheckedSchema) -> Any:
    """The JSON value in `text`, validated. A Markdown fence around it is forgiven, as models add one.

    Raises:
        ReplyBreaksSchema: not JSON, or not of the asked shape, or too large to tell.
    """
    if len(text) > MAX_CHECKED_CHARS:
        raise ReplyBreaksSchema(f"the JSON is longer than {MAX_CHECKED_CHARS} characters")
    if len(text) * schema.expanded_nodes <= STEPS_AT_ONCE:
        return _parse_checked(text, schema)
    return await anyio.to_thread.run_sync(_parse_checked, text, schema)


def unfenced(text: str) -> str:
    """What stands inside a Markdown fence, when all of the text is one."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```") and "\n" in stripped:
        return stripped[stripped.index("\n") + 1 : -3]
    return stripped


def _parse_checked(text: str, schema: CheckedSchema) -> Any:
    try:
        value = json.loads(unfenced(text), parse_constant=_refuse_constant)
        if _nodes_of(value) * schema.expanded_nodes > MAX_STEPS:
            raise ReplyBreaksSchema("the JSON is too large to be checked against so complex a schema")
        error = next(iter(schema.validator.iter_errors(value)), None)
    except (ValueError, RecursionError, ArithmeticError, TypeError) as exc:
        raise ReplyBreaksSchema(f"not valid JSON: {_one_line(str(exc))}") from exc
    except referencing.exceptions.Unresolvable as exc:
        raise ReplyBreaksSchema("the schema refers to something outside itself") from exc
    if error is not None:
        raise ReplyBreaksSchema(f"at {error.json_path}: {_one_line(error.message)}")
    return value


def _nodes_of(value: Any) -> int:
    count, pending = 0, [value]
    while pending:
        current = pending.pop()
        count += 1
        if isinstance(current, dict):
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)
    return count


class _Expansion:
    """Counts the nodes of a schema whose references are followed, without following any twice."""

    def __init__(self, root: dict[str, Any], seen: frozenset[int]) -> None:
        """`seen`: the ids of the schemas in it whose keywords were looked at."""
        self._root = root
        self._seen = seen
        self._counted: dict[str, int] = {}

    def nodes(self, node: Any, inside: tuple[str, ...]) -> int:
        """Raises `BadRequest` when there are too many, or a reference leads back into itself (`inside`)."""
        if not isinstance(node, dict):
            return 1
        parts = _parts({keyword: value for keyword, value in node.items() if keyword != "$defs"})
        count = 1 + sum(self.nodes(part, inside) for part in parts)
        reference = node.get("$ref")
        if isinstance(reference, str):
            count += self._target_nodes(reference, inside)
        if count > MAX_EXPANDED_NODES:
            raise BadRequest(f"the JSON schema is too complex: it expands to more than {MAX_EXPANDED_NODES} parts")
        return count

    def _target_nodes(self, reference: str, inside: tuple[str, ...]) -> int:
        if reference in inside:
            raise BadRequest("the JSON schema refers to itself: recursive schemas are not supported here")
        if reference not in self._counted:
            self._counted[reference] = self.nodes(self._target(reference), (*inside, reference))
        return self._counted[reference]

    def _target(self, reference: str) -> Any:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, bool) and id(found) not in self._seen:
            raise BadRequest(f"the JSON schema refers to {reference[:80]!r}, which it does not have: use '#/$defs/…'")
        return found


def _refuse_keywords(schema: dict[str, Any]) -> frozenset[int]:
    """The ids of all schemas in it. Raises `BadRequest` for the first keyword that is refused."""
    seen: set[int] = set()
    pending: list[Any] = [schema]
    while pending:
        current = pending.pop()
        if not isinstance(current, dict):
            continue
        seen.add(id(current))
        refused = _REFUSED_KEYWORDS & current.keys()
        if refused:
            raise BadRequest(f"the JSON schema keyword {min(refused)!r} is not supported here: remove it")
        if "$id" in current and current is not schema:
            raise BadRequest("the JSON schema has an '$id' within, which changes what '$ref' means: remove it")
        reference = current.get("$ref", "#/")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise BadRequest("a JSON schema may only refer to parts of itself: use '$ref' with '#/…'")
        _refuse_lists(current)
        pending.extend(_parts(current))
    return frozenset(seen)


def _refuse_lists(schema: dict[str, Any]) -> None:
    """Refuse lists of anything but strings, where a schema has lists of strings that differ."""
    types = schema.get("type")
    if isinstance(types, list) and len(types) > _JSON_TYPES:
        raise BadRequest(f"the JSON schema keyword 'type' names {len(types)} types: there are {_JSON_TYPES}")
    lists = [("type", types), ("required", schema.get("required"))]
    for keyword in ("dependentRequired", "dependencies"):
        if isinstance(named := schema.get(keyword), dict):
            lists += [(keyword, value) for value in named.values()]
    for keyword, value in lists:
        if isinstance(value, list) and not all(isinstance(each, str) for each in value):
            raise BadRequest(f"the JSON schema keyword {keyword!r} takes names: a list in it has something else")


def _parts(schema: dict[str, Any]) -> list[Any]:
    """The schemas directly inside a schema."""
    parts: list[Any] = []
    for keyword, value in schema.items():
        if keyword in _PLAIN_VALUES:
            continue
        if isinstance(value, list):
            parts.extend(value)
        elif isinstance(value, dict) and keyword in _NAMED_PARTS:
            parts.extend(value.values())
        else:
            parts.append(value)
    return parts


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= 300 else f"{line[:297]}…"
