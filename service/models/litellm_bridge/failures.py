"""Which outcome an error of LiteLLM's is. Pure: what the worker process says of it in, `ModelCallFailed` out.

Whether it may be billed follows from what the transport saw alone: not if nothing was handed to a connection, and not
if the provider's own status says that it did no work. LiteLLM's classes choose between outcomes, never between bills.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.loop.values import CallOutcome
from service.models.failures import classify, clean
from service.models.port import ModelCallFailed

_ITS_OWN_WORDS = re.compile(r"^(litellm\.\w+: |\w+Error: |\w+Exception - )+")
"""What LiteLLM puts before the provider's message."""

_BY_KIND: Mapping[str, tuple[CallOutcome, str]] = {
    "Timeout": (CallOutcome.TIMED_OUT, "the provider did not reply in time"),
    "ReplyTooLong": (CallOutcome.INVALID_REPLY, "the reply is longer than can be taken"),
    "ContentPolicyViolationError": (CallOutcome.REFUSED, "the provider's content policy refused the prompt"),
    "JSONSchemaValidationError": (CallOutcome.INVALID_REPLY, "the reply does not satisfy the JSON schema"),
}
"""Of errors after sending whose class says more than their status."""
_UNOWNED = (
    "is reached through a client whose requests cannot be controlled, so no budget could be kept: "
    "use an address of it that speaks OpenAI's protocol, as openai/MODEL"
)
_NO_OUTPUT_LIMIT = "the provider takes no limit on the length of its replies, so no budget could be kept"
_TWO_REQUESTS = "{} needs more than one request for a completion, which is not supported"


def classify_litellm(
    error: Mapping[str, Any], *, provider: str, now: datetime, secrets: tuple[str, ...] = ()
) -> ModelCallFailed:
    """The failure that an error stands for. Statuses mean what they mean from any provider (`failures`)."""
    if is_unsent(error):
        return _before_sending(error, provider, secrets)
    status = error.get("status")
    if isinstance(status, int) and 300 <= status < 600:
        return _with_status(status, error, provider, now, secrets)
    kind = str(error.get("kind", ""))
    if kind in _BY_KIND:
        return ModelCallFailed(*_BY_KIND[kind], may_be_billed=True)
    if error.get("refusal") == "second_request" and isinstance(status, int):
        return ModelCallFailed(CallOutcome.INVALID_REPLY, _TWO_REQUESTS.format(provider), may_be_billed=True)
    if isinstance(status, int) and 200 <= status < 300:
        problem = f"the reply of {provider} cannot be read ({clean(kind)})"
        return ModelCallFailed(CallOutcome.INVALID_REPLY, problem, may_be_billed=True)
    problem = f"{provider} failed without a reply ({clean(kind)})"
    return ModelCallFailed(CallOutcome.UNAVAILABLE, problem, may_be_billed=True)


def is_unsent(error: Mapping[str, Any]) -> bool:
    """Whether nothing had been handed to a connection."""
    return error.get("stage") in ("unasked", "connecting")


def _before_sending(error: Mapping[str, Any], provider: str, secrets: tuple[str, ...]) -> ModelCallFailed:
    kind, claimed = str(error.get("kind", "")), error.get("claimed")
    said = _said(error, secrets)
    outcome, problem = CallOutcome.REFUSED, f"{provider} cannot be asked{said}"
    if kind == "NoOutputLimit":
        problem = _NO_OUTPUT_LIMIT
    elif error.get("refusal") == "connection":
        problem = f"{provider} {_UNOWNED}"
    elif error.get("stage") == "connecting":
        outcome, problem = CallOutcome.UNAVAILABLE, f"{provider} cannot be reached"
    elif kind == "ContextWindowExceededError":
        outcome, problem = CallOutcome.TOO_LONG, f"the prompt does not fit the model's window{said}"
    elif kind == "AuthenticationError" and not secrets:
        problem = f"{provider} wants a key and none is set"
    elif not isinstance(claimed, int) or not 400 <= claimed < 500:
        outcome, problem = CallOutcome.UNAVAILABLE, f"{provider} failed ({clean(kind)}){said}"
    return ModelCallFailed(outcome, problem, may_be_billed=False)


def _with_status(
    status: int, error: Mapping[str, Any], provider: str, now: datetime, secrets: tuple[str, ...]
) -> ModelCallFailed:
    kind, headers = str(error.get("kind", "")), error.get("headers")
    body = {"error": {"code": kind, "message": _message(error)}}
    failure = classify(status, headers if isinstance(headers, dict) else {}, body, now=now, secrets=secrets)
    if status in (401, 403) and not secrets:
        problem = f"{provider} wants a key (HTTP {status}) and none is set"
        return ModelCallFailed(CallOutcome.REFUSED, problem, may_be_billed=False)
    if status < 500 and kind == "ContextWindowExceededError":
        problem = f"the prompt does not fit the model's window{_said(error, secrets)}"
        return ModelCallFailed(CallOutcome.TOO_LONG, problem, may_be_billed=False)
    if status < 500 and kind == "ContentPolicyViolationError":
        return ModelCallFailed(*_BY_KIND[kind], may_be_billed=False)
    return failure


def _message(error: Mapping[str, Any]) -> str:
    return _ITS_OWN_WORDS.sub("", str(error.get("message", "")))


def _said(error: Mapping[str, Any], secrets: tuple[str, ...]) -> str:
    message = _message(error)
    return f": {clean(message, secrets)}" if message else ""
