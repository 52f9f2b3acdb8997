"""Which outcome a provider's error is. Pure: status, headers and body in, `ModelCallFailed` out.

`may_be_billed` is False where the provider answered with an error *instead of* working: 4xx, and 501, 503 and 529
(not implemented, overloaded). After 500, 502 and 504 nobody knows what happened behind the gateway. A redirect is no
refusal either: whoever sent it has read the prompt, and may have worked on it before pointing elsewhere.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from service.loop.values import CallOutcome
from service.models.port import ModelCallFailed

LONGEST_RETRY_AFTER_S = 3600.0
MESSAGE_CHARS = 300

_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|maximum context|max_model_len|too many tokens|prompt is too long"
    r"|(input|prompt|request|messages?)\b.{0,60}\b(too long|exceeds?\b.{0,40}\b(tokens|limit|window))",
    re.IGNORECASE | re.DOTALL,
)
_CONTENT_POLICY = re.compile(r"content[ _](filter|policy)|safety system|flagged", re.IGNORECASE)
_OUT_OF_MONEY = re.compile(r"insufficient_quota|billing_hard_limit|insufficient (credits|balance|funds)", re.IGNORECASE)
_UNWORKED = frozenset({501, 503, 529})


def classify(
    status: int, headers: Mapping[str, str], body: object, *, now: datetime, secrets: tuple[str, ...] = ()
) -> ModelCallFailed:
    """The failure that an HTTP status other than 200 stands for. `body` is its JSON, or None."""
    code, message = _error_of(body)
    said = f": {clean(message, secrets)}" if message else ""
    wait_s = retry_after_s(headers, now)
    if 400 <= status < 500:
        return _classify_4xx(status, f"{code} {message}", said, wait_s)
    if status >= 500:
        problem = f"the provider is unavailable (HTTP {status})"
        return _failed(CallOutcome.UNAVAILABLE, problem, wait_s, may_be_billed=status not in _UNWORKED)
    if 300 <= status < 400:
        problem = f"the server redirects (HTTP {status}), which is not followed: correct the base URL"
        return _failed(CallOutcome.INVALID_REPLY, problem, may_be_billed=True)
    return _failed(CallOutcome.INVALID_REPLY, f"expected HTTP 200, found {status}", may_be_billed=True)


def _classify_4xx(status: int, text: str, said: str, wait_s: float | None) -> ModelCallFailed:
    match status:
        case 403 if _CONTENT_POLICY.search(text):
            return _failed(CallOutcome.REFUSED, "the provider's content policy refused the prompt")
        case 401 | 403:
            return _failed(CallOutcome.REFUSED, f"the key was refused (HTTP {status})")
        case 402:
            return _failed(CallOutcome.REFUSED, f"the provider's account has no money left (HTTP {status})")
        case 429 if _OUT_OF_MONEY.search(text):
            return _failed(CallOutcome.REFUSED, f"the provider's quota is used up (HTTP {status})")
        case 429:
            return _failed(CallOutcome.RATE_LIMITED, f"the provider limits the rate (HTTP {status})", wait_s)
        case 413:
            return _failed(CallOutcome.TOO_LONG, f"the prompt is larger than the provider takes (HTTP {status}){said}")
        case 400 | 422 if _TOO_LONG.search(text):
            return _failed(CallOutcome.TOO_LONG, f"the prompt does not fit the model's window{said}")
        case 400 | 422 if _CONTENT_POLICY.search(text):
            return _failed(CallOutcome.REFUSED, "the provider's content policy refused the prompt")
        case 404:
            return _failed(CallOutcome.REFUSED, f"the provider knows no such model or address (HTTP {status}){said}")
        case 408 | 409 | 425:
            return _failed(CallOutcome.UNAVAILABLE, f"the provider asks to try again (HTTP {status})", wait_s)
        case _:
            return _failed(CallOutcome.REFUSED, f"the provider refused the request (HTTP {status}){said}")


def classify_streamed(body: object, *, now: datetime, secrets: tuple[str, ...] = ()) -> ModelCallFailed:
    """The failure that an error object inside a stream stands for: the status is lost, or stands in its code."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch(r"[45]\d\d", str(code)) else 0
    name, message = _error_of(body)
    if status == 0 and _TOO_LONG.search(f"{name} {message}"):
        status = 400
    if status == 0 and "rate_limit" in name:
        status = 429
    if status == 0:
        said = f": {clean(message, secrets)}" if message else ""
        return _failed(CallOutcome.UNAVAILABLE, f"the provider ended its reply with an error{said}", may_be_billed=True)
    failure = classify(status, {}, body, now=now, secrets=secrets)
    return _failed(failure.outcome, failure.message, may_be_billed=True)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the server asks to wait: `Retry-After` in seconds or as a date, or `Retry-After-Ms`; at most an hour."""
    for name, per_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            return min(float(text) / per_second, LONGEST_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)


_CREDENTIAL = re.compile(
    r"(?i:bearer|basic)\s+\S+"
    r"|\b(?:sk|pk|rk|gsk|xai|key|api|hf|or)[-_][\w*.-]{4,}"
    r"|\bAIza[\w-]{10,}"
    r"|[\w*-]*\*{3,}[\w*-]*"
    r"|\b(?=[\w-]*[0-9])(?=[\w-]*[A-Za-z])[\w-]{24,}\b"
)
_QUOTED = re.compile(r"'[^']{40,}'|\"[^\"]{40,}\"|`[^`]{40,}`", re.DOTALL)


def clean(message: str, secrets: tuple[str, ...] = ()) -> str:
    """A provider's message as one short line without keys and without long quotations (they are payload)."""
    text = message
    for secret in filter(None, secrets):  # before anything is cut, which would leave the beginning of one
        text = text.replace(secret, "[redacted]")
    text = text[: 4 * MESSAGE_CHARS]  # the patterns below are quadratic in the worst case
    text = _CREDENTIAL.sub("[redacted]", text)
    text = _QUOTED.sub("'…'", text)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 1] + "…"


def _error_of(body: object) -> tuple[str, str]:
    """Code (or type) and message of an error body; the shapes of OpenAI, FastAPI servers and Ollama."""
    if not isinstance(body, dict):
        return "", ""
    error: Any = body.get("error", body)
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", ""
    code = error.get("code") or error.get("type") or ""
    message = error.get("message") or error.get("detail") or ""
    return str(code)[:100], message if isinstance(message, str) else ""


def _failed(
    outcome: CallOutcome, message: str, wait_s: float | None = None, *, may_be_billed: bool = False
) -> ModelCallFailed:
    return ModelCallFailed(outcome, message, retry_after_s=wait_s, may_be_billed=may_be_billed)
