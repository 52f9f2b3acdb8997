"""Refusals in the words of Anthropic's API, for the routes that speak them."""

import json

from starlette.responses import JSONResponse, Response

from service.errors import RlmServiceError
from service.web.problems import FAILED, status_of

PATH = "/v1/messages"
_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def is_anthropic(path: str) -> bool:
    """Whether a route of this path speaks Anthropic's dialect."""
    return path == PATH or path.startswith(f"{PATH}/")


def in_dialect(path: str, refusal: Response) -> Response:
    """A refusal as the client of this route reads it."""
    if not is_anthropic(path):
        return refusal
    problem = json.loads(bytes(refusal.body))
    error = {"type": error_type(refusal.status_code), "message": problem["detail"], "code": problem["code"]}
    body = {"type": "error", "error": error | {"data": problem["data"]}, "request_id": problem["request_id"]}
    headers = {name: value for name, value in refusal.headers.items() if not name.startswith("content-")}
    return JSONResponse(body, refusal.status_code, headers=headers)


def error_of(error: RlmServiceError) -> dict[str, str]:
    """The same for a stream that had begun."""
    status = status_of(error)
    return {"type": error_type(status), "message": str(error) if status != 500 else FAILED, "code": error.code}


def error_type(status: int) -> str:
    return _TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")
