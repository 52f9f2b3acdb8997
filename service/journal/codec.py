"""Events as JSON: `{"type": "CellFinished", "at": …, …}`, where the type is the event's class.

Older journals must read for ever: an absent field takes its default, an unknown field is ignored (a newer replica
wrote it), an unknown type is an error, because skipping a fact would change what the run is.
"""

import json
from typing import get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from service.loop.events import Event
from service.store.errors import StoreFailed

_ADAPTERS: dict[str, TypeAdapter[Event]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Event)}


def encode(event: Event) -> bytes:
    """The event as one line of JSON."""
    try:
        body = to_json(event, inf_nan_mode="constants")
    except PydanticSerializationError:
        body = _without_surrogates(event)
    return b'{"type":"%s",%s' % (type(event).__name__.encode(), body[1:])


def decode(line: bytes) -> Event:
    """The event that `encode` wrote.

    Raises:
        StoreFailed: it is not an event this version knows.
    """
    try:
        fields = json.loads(line)
        kind = fields.pop("type")
        adapter = _ADAPTERS[kind]
    except (ValueError, AttributeError, TypeError) as error:
        raise StoreFailed("expected a journal entry as a JSON object with a type, found something else") from error
    except KeyError as error:
        name = str(error.args[0])[:60]
        raise StoreFailed(
            f"the journal holds an entry of type {name!r}, which this version does not know; upgrade the service"
        ) from error
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors()[:3])
        raise StoreFailed(f"a journal entry of type {kind} does not fit this version (at {where})") from error


def _without_surrogates(event: Event) -> bytes:
    # A lone surrogate can stand in a Python string and in no UTF-8: a model or cell that sends one must not end a run.
    fields = TypeAdapter(type(event)).dump_python(event)
    text = json.dumps(fields, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace")
