"""DSPy's language model, over its own client (`lm15`) or over LiteLLM (`litellm`), as the one argument says."""

import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

import dspy

from tests.matrix.drivers.telling import (
    DIRECT,
    GIVEN_UP_S,
    NUMBER,
    RETRIES,
    RUN,
    SCHEMA,
    TIMEOUT_S,
    NoCall,
    drive,
    expect_once,
    long_question,
    question,
    read_service,
)

SERVICE = read_service()
(ENGINE,) = sys.argv[1:]
FORMAT = {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}}


def model(name: str = RUN, **more: Any) -> Any:
    given = {"api_key": SERVICE.key, "timeout": TIMEOUT_S, "num_retries": 0, "cache": False, "engine": ENGINE} | more
    return dspy.LM(f"openai/{name}", api_base=f"{SERVICE.address}/v1", **given)


def ask(text: str, name: str = RUN, **more: Any) -> str:
    said = model(name, **more)(text)[0]
    return str(said["text"] if isinstance(said, dict) else said)


def plain() -> str:
    said = ask(question())
    assert said == NUMBER, said
    return said


def long_prompt() -> str:
    text = long_question()
    said = ask(text)
    assert said == NUMBER, said
    return f"{len(text)} bytes"


def json_schema() -> str:
    said = ask(question(), response_format=FORMAT)
    assert NUMBER in said, said
    return said


def usage() -> str:
    asked = model()
    asked(question())
    used = asked.history[-1]["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"]) == (1_000, 100), used
    return f"{used['prompt_tokens']} + {used['completion_tokens']}"


def refused(kind: str, name: str = RUN, **given: Any) -> str:
    """DSPy has an exception for each status, which does not carry it; a sentence of the service is in it."""
    try:
        ask(question(), name, **given)
    except Exception as exc:
        assert type(exc).__name__ == kind, repr(exc)
        return f"{kind}: {exc}".partition("\n")[0]
    raise AssertionError("it was not refused")


def error_429() -> str:
    ask(question(), DIRECT, api_key=SERVICE.slow)
    return refused("LMRateLimitError", DIRECT, api_key=SERVICE.slow)


def error_400() -> str:
    said = refused("LMInvalidRequestError", logprobs=True)
    assert "logprobs" in said, said
    return said


def retry(name: str) -> str:
    return expect_once(lambda text: ask(text, name, timeout=GIVEN_UP_S, num_retries=RETRIES))


NO_RESPONSES = NoCall("LiteLLM's responses want the package mcp, which DSPy does not bring")
CALLS: dict[str, Callable[[], str] | NoCall] = {
    "plain": plain,
    "streaming": NoCall("its model waits for whole answers (streams are of programs: not tried)"),
    "long_prompt": long_prompt,
    "json_schema": json_schema,
    "usage": usage,
    "error_401": lambda: refused("LMAuthError", api_key="rlm_nobody"),
    "error_402": lambda: refused("LMBillingError", api_key=SERVICE.spent, num_retries=2),
    "error_404": lambda: refused("LMUnsupportedModelError", "nobody"),
    "error_429": error_429,
    "error_400": error_400,
    "retry_run": lambda: retry(RUN),
    "retry_direct": lambda: retry(DIRECT),
    "responses": NO_RESPONSES if ENGINE == "litellm" else lambda: _said(ask(question(), model_type="responses")),
    "background_resume": NoCall("its model waits for its answers"),
    "files": NoCall("its model has no files"),
    "models": NoCall("its model lists no models"),
    "count_tokens": NoCall("its model counts no tokens"),
}


def _said(text: str) -> str:
    assert text == NUMBER, text
    return "plain"


drive("dspy", importlib.metadata.version("dspy"), CALLS)
