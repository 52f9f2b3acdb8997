"""JSON Schema from callers and sandboxes: checked before use, so that validating cannot be turned against us.

A schema is code of a kind: `pattern` runs a regular expression that may take exponential time, `$ref` may name a
remote document. Both are refused rather than bounded.
"""

import json
from typing import Any

import jsonschema
import referencing
from jsonschema.protocols import Validator

from service.errors import BadRequest

MAX_SCHEMA_CHARS = 64_000
MAX_CHECKED_CHARS = 4_000_000
"""Values longer than this (as JSON) are not validated but refused: validation is quadratic in places."""

_REFUSED_KEYWORDS = frozenset({"pattern", "patternProperties", "$dynamicRef", "$recursiveRef", "uniqueItems"})


class ReplyBreaksSchema(Exception):
    """The text is not JSON, or not of the asked shape. The message is one line and may be shown to a model."""


def check_schema(schema: dict[str, Any]) -> Validator:
    """A validator for a schema that may come from anybody.

    Raises:
        BadRequest: not a JSON Schema, too large, or using a keyword that is refused here.
    """
    try:
        if len(json.dumps(schema)) > MAX_SCHEMA_CHARS:
            raise BadRequest(f"the JSON schema is larger than {MAX_SCHEMA_CHARS} characters")
        _refuse_keywords(schema)
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise BadRequest(f"not a valid JSON Schema: {_one_line(exc.message)}") from exc
    except (RecursionError, ValueError, TypeError) as exc:
        raise BadRequest("not a usable JSON Schema: nested too deeply, or not plain JSON") from exc
    return jsonschema.Draft202012Validator(schema, registry=referencing.Registry())


def parse_checked(text: str, validator: Validator) -> Any:
    """The JSON value in `text`, validated. A Markdown fence around it is forgiven, as models add one.

    Raises:
        ReplyBreaksSchema: not JSON, or not of the asked shape.
    """
    if len(text) > MAX_CHECKED_CHARS:
        raise ReplyBreaksSchema(f"the JSON is longer than {MAX_CHECKED_CHARS} characters")
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```") and "\n" in stripped:
        stripped = stripped[stripped.index("\n") + 1 : -3]
    try:
        value = json.loads(stripped, parse_constant=_refuse_constant)
        error = next(iter(validator.iter_errors(value)), None)
    except (ValueError, RecursionError) as exc:
        raise ReplyBreaksSchema(f"not valid JSON: {_one_line(str(exc))}") from exc
    except referencing.exceptions.Unresolvable as exc:
        raise ReplyBreaksSchema("the schema refers to something outside itself") from exc
    if error is not None:
        raise ReplyBreaksSchema(f"at {error.json_path}: {_one_line(error.message)}")
    return value


def _refuse_keywords(node: Any) -> None:
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            refused = _REFUSED_KEYWORDS & current.keys()
            if refused:
                raise BadRequest(f"the JSON schema keyword {min(refused)!r} is not supported here: remove it")
            reference = current.get("$ref", "#")
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise BadRequest("a JSON schema may only refer to itself: use '$ref' with '#/…'")
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= 300 else f"{line[:297]}…"
