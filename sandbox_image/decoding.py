"""JSON to the dataclasses of `protocol`, strictly: unknown, missing and wrongly typed fields are all refused."""

import dataclasses
import json
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

Value = TypeVar("Value")


class NotThatShape(Exception):
    """The JSON is not what the dataclass says; the message names the field, never its content."""


def parse_json(body: bytes) -> Any:
    """JSON as the RFC has it: no NaN, no Infinity.

    Raises:
        NotThatShape: it is not JSON.
    """
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotThatShape(f"the body is not JSON ({type(error).__name__})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def decode_value(cls: type[Value], value: Any) -> Value:
    """Build a dataclass of `protocol` from parsed JSON.

    Raises:
        NotThatShape: a field is unknown, missing or of another type.
    """
    decoded = _decode_dataclass(cls, value, cls.__name__)
    assert isinstance(decoded, cls)
    return decoded


def learn_shape(cls: type[Any]) -> None:
    """Read the annotations of a dataclass, and of those that it is made of, before anybody waits for it."""
    for hint in _fields_of(cls)[0].values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                learn_shape(typing.cast(type[Any], part))


def _decode_dataclass(cls: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise NotThatShape(f"{where} must be an object, found {type(value).__name__}")
    hints, required = _fields_of(cls)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise NotThatShape(f"{where} has no field {min(unknown)[:80]!r}")
    missing = required - value.keys()
    if missing:
        raise NotThatShape(f"{where} needs the field {min(missing)!r}")
    return cls(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


_known_fields: dict[str, tuple[dict[str, Any], frozenset[str]]] = {}


def _fields_of(cls: type[Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Remembered, because reading annotations is slow beside a cell."""
    if cls.__qualname__ not in _known_fields:
        absent = dataclasses.MISSING
        required = [f.name for f in dataclasses.fields(cls) if f.default is absent and f.default_factory is absent]
        _known_fields[cls.__qualname__] = typing.get_type_hints(cls), frozenset(required)
    return _known_fields[cls.__qualname__]


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is list:
        if not isinstance(value, list):
            raise NotThatShape(f"{where} must be a list, found {type(value).__name__}")
        (item_hint,) = typing.get_args(hint)
        return [_decode(item_hint, item, f"{where}[]") for item in value]
    if origin is types.UnionType:
        (inner,) = [arm for arm in typing.get_args(hint) if arm is not types.NoneType]
        return None if value is None else _decode(inner, value, where)
    if origin is typing.Literal:
        return _decode_word(typing.get_args(hint), value, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(_decode_word(tuple(hint), value, where))
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast(type[Any], hint), value, where)
    return _decode_scalar(hint, value, where)


def _decode_word(words: tuple[str, ...], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in words:
        raise NotThatShape(f"{where} must be one of {', '.join(words)}")
    return value


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise NotThatShape(f"{where} must be of type {hint.__name__}, found {type(value).__name__}")
    return value
