"""How a refusal looks: one table from error codes to HTTP statuses, and one body for all of them.

The body has the members of RFC 9457 and, for clients made for OpenAI's API, an `error` object with the same facts.
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from service.errors import Fault, RlmServiceError

STATUS_OF_CODE: Mapping[str, int] = {
    "bad_request": 400,
    "unsupported_parameter": 400,
    "root_model_missing": 400,
    "invalid_request": 422,
    "unauthenticated": 401,
    "budget_exceeded": 402,
    "budget_too_small": 402,
    "run_budget_spent": 402,
    "not_permitted": 403,
    "model_not_allowed": 403,
    "tenant_suspended": 403,
    "not_found": 404,
    "model_not_found": 404,
    "value_missing": 404,
    "file_missing": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "run_already_finished": 409,
    "run_id_taken": 409,
    "run_cancelled": 409,
    "session_busy": 409,
    "session_used": 409,
    "session_paused": 409,
    "upload_offset_mismatch": 409,
    "upload_busy": 409,
    "not_a_file": 409,
    "file_changed": 409,
    "run_not_finished": 409,
    "sole_tenant_served": 409,
    "context_open": 409,
    "context_sealed": 409,
    "request_in_progress": 409,
    "gone": 410,
    "request_too_large": 413,
    "too_many_values": 413,
    "answer_too_long": 413,
    "blob_too_large": 413,
    "value_too_large": 413,
    "file_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "idempotency_key_reused": 422,
    "forbidden_target": 422,
    "digest_mismatch": 422,
    "upload_digest_mismatch": 422,
    "too_many_levels": 422,
    "unknown_model": 422,
    "unpriced_model": 422,
    "value_unserialisable": 422,
    "bind_refused": 422,
    "budget_in_flight": 429,
    "concurrency_limited": 429,
    "quota_exceeded": 429,
    "too_many_uploads": 429,
    "rate_limited": 429,
    "sandbox_busy": 409,
    "model_failed": 502,
    "no_answer": 502,
    "no_sandbox_slot": 503,
    "sandbox_refused": 503,
    "sandbox_start_failed": 503,
    "sandbox_gone": 503,
    "store_failed": 503,
    "changed_meanwhile": 503,
    "replica_busy": 503,
    "missing_api_key": 503,
    "price_map_unreadable": 503,
    "blob_missing": 500,
    "record_unreadable": 500,
    "internal": 500,
    # Between rooms, never on their way to a client:
    "body_too_large": 500,
    "grant_refused": 500,
    "host_call_refused": 500,
    "reservation_conflict": 500,
    "run_kept": 500,
    "run_stalled": 500,
    "stale_epoch": 500,
}
"""Every code of the tree (a test holds the two together), in the order of their statuses."""

_OPENAI_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
FAILED = "the service failed; its log has more under this request id"
"""All that a client is told of a defect."""
_TITLE_OF_CODE = {"unauthenticated": "API key required"}
_RETRY_AFTER_S = {409: 1.0, 429: 1.0, 503: 1.0}


class OpenAIError(BaseModel):
    """The same facts as clients made for OpenAI's API read them."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457), and the same for clients made for OpenAI's API."""

    type: str = Field(examples=["urn:rlm-service:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no run run_0198c2f0a7b87cc2b1a8f2c3d4e5f607"])
    code: str = Field(description="Constant; what programs go by.", examples=["not_found"])
    request_id: str = Field(description="Of this request, as in the header `x-request-id`.")
    data: dict[str, Any] = Field(default_factory=dict, description="What there is to be known besides, by code.")
    error: OpenAIError


class InvalidRequest(RlmServiceError):
    """The request does not have the shape that the route expects; `data["errors"]` says where."""

    code = "invalid_request"
    fault = Fault.CALLER


def openai_error(error: RlmServiceError) -> OpenAIError:
    """The same facts for a stream that had begun, where there is no status any more."""
    status = status_of(error)
    param = error.data.get("param")
    return OpenAIError(
        message=str(error) if status != 500 else FAILED,
        type=_openai_type(status),
        param=param if isinstance(param, str) else None,
        code=error.code,
    )


def _openai_type(status: int) -> str:
    return _OPENAI_TYPE_OF_STATUS.get(status, "invalid_request_error" if status < 500 else "server_error")


def status_of(error: RlmServiceError) -> int:
    """The HTTP status of an error of the tree."""
    return STATUS_OF_CODE.get(error.code, 500)


def problem_of(
    error: RlmServiceError, request_id: str, *, errors: Sequence[Mapping[str, str]] | None = None
) -> Response:
    """The response to a request that failed with this error. `errors` says which fields are wrong.

    Nothing of what was not meant for a client is in it: an error whose status is 500 says no more than that.
    """
    status = status_of(error)
    data: dict[str, Any] = dict(error.data) if status != 500 else {}
    detail = str(error) if status != 500 else FAILED
    if errors is not None:
        data["errors"] = [dict(each) for each in errors]
    headers = {"x-should-retry": "true" if error.may_be_retried else "false"}
    if error.may_be_retried and (seconds := _retry_after_s(error, status)) is not None:
        headers["retry-after"] = str(math.ceil(seconds))
    if isinstance(run_id := error.data.get("run_id"), str) and status != 500:
        headers["x-rlm-run-id"] = run_id
    if status == 416:
        headers["content-range"] = f"bytes */{error.data['size_bytes']}"
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="rlm-service"'
    return problem(error.code, status, detail, request_id, data=data, headers=headers)


def problem(
    code: str,
    status: int,
    detail: str,
    request_id: str,
    *,
    data: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The one error body."""
    kind = _openai_type(status)
    param = (data or {}).get("param")
    body = Problem(
        type=f"urn:rlm-service:problem:{code}",
        title=_TITLE_OF_CODE.get(code) or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        data=dict(data or {}),
        error=OpenAIError(message=detail, type=kind, param=param if isinstance(param, str) else None, code=code),
    )
    return JSONResponse(body.model_dump(), status, headers=dict(headers or {}), media_type="application/problem+json")


def _retry_after_s(error: RlmServiceError, status: int) -> float | None:
    told = error.data.get("retry_after_s", _RETRY_AFTER_S.get(status))
    return float(told) if isinstance(told, int | float) else None
