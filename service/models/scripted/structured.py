"""JSON for a schema, filled from a text as far as keywords go. Covers what sub-calls ask for in practice: objects,
arrays, strings, numbers, booleans, enums, constants, unions and local references."""

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from service.models.scripted import reader
from service.models.scripted.keywords import read_wish

DEEPEST = 12
MOST_ITEMS = 20
MOST_VALUES = 1000
"""In a whole reply: a schema that refers to itself could ask for any number of them. The rest are null."""
MOST_CHOICES = 100
"""Of an enum, that are looked for in the text."""


def fill(schema: dict[str, Any], instruction: str, text: str) -> str:
    """A JSON document that satisfies the schema."""
    return json.dumps(_Filler(schema, text, count(1)).value(schema, instruction, 0), ensure_ascii=False)


class _Filler:
    def __init__(self, root: dict[str, Any], text: str, numbers: Iterator[int]) -> None:
        """`numbers` counts the values of the whole reply."""
        self._root = root
        self._text = text
        self._numbers = numbers

    def value(self, schema: Any, instruction: str, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > DEEPEST or next(self._numbers) > MOST_VALUES:
            return None
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._choice(schema["enum"])
        for union in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(union), list) and schema[union]:
                return self.value(schema[union][0], instruction, depth + 1)
        return self._typed(schema, instruction, depth)

    def _typed(self, schema: dict[str, Any], instruction: str, depth: int) -> Any:
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        match kind[0] if isinstance(kind, list) and kind else kind:
            case "object":
                return self._object(schema, instruction, depth)
            case "array":
                return self._array(schema, instruction, depth)
            case "integer":
                return int(self._number(schema, instruction))
            case "number":
                return self._number(schema, instruction)
            case "boolean":
                return bool(reader.matching_lines(read_wish(instruction), self._text))
            case "null":
                return None
            case _:
                return self._string(schema, instruction)

    def _object(self, schema: dict[str, Any], instruction: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        return {
            name: self.value(one, f"{instruction} {name.replace('_', ' ')}", depth + 1)
            for name, one in properties.items()
        }

    def _array(self, schema: dict[str, Any], instruction: str, depth: int) -> list[Any]:
        least = min(_whole(schema.get("minItems"), 0), MOST_ITEMS)
        most = min(_whole(schema.get("maxItems"), MOST_ITEMS), MOST_ITEMS)
        lines = reader.matching_lines(read_wish(instruction), self._text)[:most]
        item = schema.get("items", {})
        filled = [_Filler(self._root, line, self._numbers).value(item, instruction, depth + 1) for line in lines]
        while len(filled) < least:
            filled.append(self.value(item, instruction, depth + 1))
        return filled

    def _number(self, schema: dict[str, Any], instruction: str) -> float:
        wish = read_wish(instruction)
        if wish.count:
            found = float(len(reader.matching_lines(wish, self._text)))
        else:
            line = reader.find(read_wish(f"{instruction} number"), self._text)
            digits = re.sub(r"[^\d.+-]", "", line)
            found = float(digits) if re.fullmatch(r"[-+]?\d{1,15}(\.\d{1,15})?", digits) else 0.0
        least, most = schema.get("minimum"), schema.get("maximum")
        if isinstance(least, int | float):
            found = max(found, least)
        if isinstance(most, int | float):
            found = min(found, most)
        return int(found) if found == int(found) else found

    def _string(self, schema: dict[str, Any], instruction: str) -> str:
        text = reader.answer_from(instruction, self._text)
        text = text.ljust(min(_whole(schema.get("minLength"), 0), 10_000), ".")
        return text[: _whole(schema.get("maxLength"), len(text))]

    def _choice(self, offered: list[Any]) -> Any:
        names = [str(one) for one in offered[:MOST_CHOICES]]
        return offered[names.index(reader.classify(names, self._text))]

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        for _ in range(DEEPEST):
            reference = schema.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return schema
            found: Any = self._root
            for key in reference[2:].split("/"):
                found = found.get(key) if isinstance(found, dict) else None
            if not isinstance(found, dict):
                return {}
            schema = found
        return {}


def _whole(value: object, instead: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else instead
