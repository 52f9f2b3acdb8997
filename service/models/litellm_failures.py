"""Which outcome an error of LiteLLM's is. Pure: what the worker process says of it in, `ModelCallFailed` out."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.loop.values import CallOutcome
from service.models.failures import classify, clean
from service.models.port import ModelCallFailed

_ITS_OWN_WORDS = re.compile(r"^(litellm\.\w+: |\w+Error: |\w+Exception - )+")
"""What LiteLLM puts before the provider's message."""

_PLAIN: Mapping[str, tuple[CallOutcome, str, bool]] = {
    "Timeout": (CallOutcome.TIMED_OUT, "the provider did not reply in time", True),
    "ReplyTooLong": (CallOutcome.INVALID_REPLY, "the reply is longer than can be taken", True),
    "NoOutputLimit": (
        CallOutcome.REFUSED,
        "the provider takes no limit on the length of its replies, so no budget could be kept",
        False,
    ),
    "ContentPolicyViolationError": (CallOutcome.REFUSED, "the provider's content policy refused the prompt", False),
    "APIResponseValidationError": (CallOutcome.INVALID_REPLY, "the provider's reply cannot be read", True),
    "JSONSchemaValidationError": (CallOutcome.INVALID_REPLY, "the reply does not satisfy the JSON schema", True),
}
"""Outcome, message and whether it may be billed of errors whose class says it all."""


def classify_litellm(
    error: Mapping[str, Any], *, provider: str, now: datetime, secrets: tuple[str, ...] = ()
) -> ModelCallFailed:
    """The failure that an error stands for. Statuses mean what they mean from any provider (`failures`)."""
    kind, status, message = (
        str(error.get("kind", "")),
        error.get("status"),
        _ITS_OWN_WORDS.sub("", str(error.get("message", ""))),
    )
    headers = error.get("headers")
    said = f": {clean(message, secrets)}" if message else ""
    if kind in _PLAIN:
        outcome, problem, may_be_billed = _PLAIN[kind]
        return ModelCallFailed(outcome, problem, may_be_billed=may_be_billed)
    if error.get("nothing_sent"):
        return ModelCallFailed(CallOutcome.UNAVAILABLE, f"{provider} cannot be reached", may_be_billed=False)
    if kind == "ContextWindowExceededError":
        problem = f"the prompt does not fit the model's window{said}"
        return ModelCallFailed(CallOutcome.TOO_LONG, problem, may_be_billed=False)
    if status in (401, 403) and not secrets:
        problem = f"{provider} wants a key (HTTP {status}) and none is set"
        return ModelCallFailed(CallOutcome.REFUSED, problem, may_be_billed=False)
    if isinstance(status, int) and 300 <= status < 600:
        body = {"error": {"code": kind, "message": message}}
        return classify(status, headers if isinstance(headers, dict) else {}, body, now=now, secrets=secrets)
    return ModelCallFailed(CallOutcome.UNAVAILABLE, f"{provider} failed ({clean(kind)}){said}")
