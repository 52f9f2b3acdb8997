"""Bodies that are no shape: bytes of any size, streams of events, lines of JSON. How a route declares them."""

from collections.abc import Mapping
from typing import Any

from service.web.openapi.refusals import refused_with
from service.web.preferences import EVENT_STREAM

JSON_LINES = "application/jsonl"
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_MEDIA: Mapping[str, dict[str, Any]] = {
    "application/json": {"schema": {}, "example": {"id": 7, "lines": [1, 2]}},
    "application/octet-stream": {"schema": _BINARY, "example": "id,total\n7,12\n"},
    "application/x-ndjson": {"schema": {"type": "string"}, "example": '{"id": 7}\n{"id": 8}\n'},
    "text/plain": {"schema": {"type": "string"}, "example": "The whole text."},
}


def bodies(*media: str) -> dict[str, Any]:
    """The content of requests or responses of these types."""
    return {each: _MEDIA[each] for each in media}


def sent_as(*media: str) -> dict[str, Any]:
    """For `openapi_extra`: a body of one of these types."""
    return {"requestBody": {"required": True, "content": bodies(*media)}}


def answered_as(description: str, *media: str) -> dict[int | str, dict[str, Any]]:
    """For `responses`: a payload of one of these types, whole, or the part that the header `range` asks for."""
    content = bodies(*media)
    return {
        200: {"description": description, "content": content},
        206: {"description": "The part of it that the header `range` asked for.", "content": content},
        **refused_with(416),
    }


def streamed_too(example: str, description: str = "The answer, or its events as they come.") -> dict[str, Any]:
    """For `responses`: what comes as JSON comes as server-sent events as well."""
    return {"description": description, "content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": example}}}


def in_lines(example: str) -> dict[str, Any]:
    """For `responses` and request bodies: one JSON object a line."""
    return {JSON_LINES: {"schema": {"type": "string"}, "example": example}}
