"""With which statuses an operation refuses: those that follow from what it takes, and those that its route names.

Every refusal has one body (`problems.Problem`; Anthropic's own where clients expect that). `default` stands for what
may happen anywhere: a defect of the service is 500.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from service.web.dialects.anthropic.refusals import is_anthropic

ASKING = (402, 404, 409, 502)
"""Of whatever asks a model and waits for the answer: money, what is named and is not there, another try under way, no
answer."""
_DETAIL = "there is no run run_0198c2f0a7b87cc2b1a8f2c3d4e5f607"
_REQUEST_ID = "req_5d1c3f6b0a9e8d7c6b5a49382716f5e4"
_EXAMPLE: dict[str, Any] = {
    "type": "urn:rlm-service:problem:not_found",
    "title": "Not Found",
    "status": 404,
    "detail": _DETAIL,
    "code": "not_found",
    "request_id": _REQUEST_ID,
    "data": {},
    "error": {"message": _DETAIL, "type": "not_found_error", "param": None, "code": "not_found"},
}
_PROBLEM: dict[str, Any] = {
    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _EXAMPLE}
}
_ANTHROPICS: dict[str, Any] = {
    "application/json": {
        "schema": {"type": "object", "required": ["type", "error", "request_id"]},
        "example": {
            "type": "error",
            "error": {"type": "not_found_error", "message": _DETAIL, "code": "not_found", "data": {}},
            "request_id": _REQUEST_ID,
        },
    }
}


def refused_with(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the `responses` of a route: what does not follow from what it takes."""
    return {status: {"description": HTTPStatus(status).phrase} for status in statuses}


def declare_refusals(document: dict[str, Any]) -> None:
    """Let each operation say how it refuses. What is said often stands once, among the document's components."""
    shared: dict[str, Any] = {}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _declare(path, operation, shared)
    document["components"]["responses"] = dict(sorted(shared.items()))


def _declare(path: str, operation: dict[str, Any], shared: dict[str, Any]) -> None:
    given = operation["responses"]
    refusals = {status for status, response in given.items() if status.isdecimal() and "content" not in response}
    refusals = {status for status in refusals if status >= "400"} | {
        str(each) for each in _that_follow(path, operation)
    }
    kept = {status: response for status, response in given.items() if status not in {*refusals, "default"}}
    referred = {status: _shared(path, status, shared) for status in (*refusals, "default")}
    operation["responses"] = dict(sorted((kept | referred).items()))


def _shared(path: str, status: str, shared: dict[str, Any]) -> dict[str, str]:
    """A reference to the refusal with this status in the dialect of the path."""
    body, name = (_ANTHROPICS, f"Anthropic{status}") if is_anthropic(path) else (_PROBLEM, f"Refused{status}")
    phrase = "Refused otherwise" if status == "default" else HTTPStatus(int(status)).phrase
    shared[name] = {"description": f"{phrase}; `code` says why.", "content": body}
    return {"$ref": f"#/components/responses/{name}"}


def _that_follow(path: str, operation: dict[str, Any]) -> Iterator[int]:
    if not operation.get("security", True):
        return
    yield from (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    yield from (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    if "{" in path:
        yield HTTPStatus.NOT_FOUND
    if "{run_id}" in path:
        yield HTTPStatus.GONE
    bodies = operation.get("requestBody", {}).get("content", {})
    if bodies:
        yield from (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT)
        yield from (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    is_told_more = any(not _is_id(each) for each in operation.get("parameters", ()))
    if is_told_more:
        yield HTTPStatus.BAD_REQUEST
    if is_told_more or "application/json" in bodies:
        yield HTTPStatus.UNPROCESSABLE_ENTITY


def _is_id(parameter: dict[str, Any]) -> bool:
    """What has not an id's shape is not found, so it needs no status of its own."""
    return parameter["in"] == "path" and str(parameter["name"]).endswith("_id")
