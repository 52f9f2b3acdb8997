"""Links: which operation's answer has the ids that another operation asks for, for tools that walk through an API."""

from collections.abc import Iterator, Mapping
from typing import Any

_OTHERWISE_NAMED: Mapping[str, Mapping[str, str]] = {
    "/v1/files": {"file_id": "id"},
    "/v1/responses": {"response_id": "id"},
}
"""Ids that an answer has under another name, as the dialect wants it."""
_TAKEN_UP: Mapping[str, Mapping[str, Any]] = {
    "/v1/contexts": {"contexts": [{"context_id": "$response.body#/context_id"}]},
    "/v1/sessions": {"session_id": "$response.body#/session_id"},
}
"""What a run is submitted with, of what was made there."""


def link(document: dict[str, Any]) -> None:
    """Let each answer to a POST that makes a thing name the operations on that thing."""
    targets = list(_targets(document))
    for path, methods in document["paths"].items():
        for status, response in methods.get("post", {"responses": {}})["responses"].items():
            if not status.startswith("2"):
                continue
            fields = _fields(document, response)
            links: dict[str, Any] = {
                operation_id: {"operationId": operation_id, "parameters": parameters}
                for operation_id, names in targets
                if (parameters := _parameters(names, fields, path)) is not None
            }
            if path in _TAKEN_UP:
                submits = document["paths"]["/v1/runs"]["post"]["operationId"]
                links[submits] = {"operationId": submits, "requestBody": _TAKEN_UP[path]}
            if links:
                response["links"] = links


def _targets(document: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Operations on things, and the names in their paths."""
    for methods in document["paths"].values():
        for operation in methods.values():
            names = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"]
            if names:
                yield operation["operationId"], names


def _parameters(names: list[str], fields: list[str], path: str) -> dict[str, str] | None:
    """Where each name's value is found; None unless the thing that was made is among them and none is missing."""
    found, named = {}, _OTHERWISE_NAMED.get(path, {})
    for name in names:
        field = named.get(name, name)
        if field in fields:
            found[name] = f"$response.body#/{field}"
        elif f"{{{name}}}" in path:
            found[name] = f"$request.path.{name}"
        else:
            return None
    made = next((field for field in fields if field in named.values() or field.endswith("_id")), None)
    is_there_before = f"{{{made}}}" in path
    return None if is_there_before or f"$response.body#/{made}" not in found.values() else found


def _fields(document: dict[str, Any], response: dict[str, Any]) -> list[str]:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("properties", {}))
