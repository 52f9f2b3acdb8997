"""LiteLLM as a library, which calls the service as an OpenAI-compatible one."""

import importlib
import importlib.metadata
import json
from collections.abc import Callable
from typing import Any

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
FORMAT = {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}}
litellm: Any = importlib.import_module("litellm")  # its names are not exported as type checkers want it
litellm.suppress_debug_info = True


def complete(text: str, model: str = RUN, **more: Any) -> Any:
    given = {"api_key": SERVICE.key, "timeout": TIMEOUT_S, "max_retries": 0} | more
    messages = [{"role": "user", "content": text}]
    return litellm.completion(f"openai/{model}", messages=messages, api_base=f"{SERVICE.address}/v1", **given)


def ask(text: str, model: str = RUN, **more: Any) -> str:
    return str(complete(text, model, **more).choices[0].message.content)


def plain() -> str:
    said = ask(question())
    assert said == NUMBER, said
    return said


def streaming() -> str:
    said, thought = "", ""
    for chunk in complete(question(), stream=True):
        for choice in chunk.choices:
            said += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
    assert said == NUMBER, said
    assert thought, "no progress was told"
    return f"{len(thought)} characters of progress"


def long_prompt() -> str:
    text = long_question()
    said = ask(text)
    assert said == NUMBER, said
    return f"{len(text)} bytes"


def json_schema() -> str:
    said = ask(question(), response_format=FORMAT)
    assert json.loads(said) == {"number": int(NUMBER)}, said
    return said


def usage() -> str:
    used = complete(question()).usage
    assert (used.prompt_tokens, used.completion_tokens) == (1_000, 100), used
    return f"{used.prompt_tokens} + {used.completion_tokens}"


def refused(status: int, kind: type[Exception], **given: Any) -> Any:
    try:
        ask(question(), **given)
    except kind as exc:
        assert getattr(exc, "status_code", None) == status, exc
        return exc
    raise AssertionError("it was not refused")


def kind_of(exc: Any) -> str:
    return type(exc).__name__


def error_402() -> str:
    # LiteLLM has no exception of its own for 402.
    return kind_of(refused(402, Exception, api_key=SERVICE.spent, max_retries=2))


def error_429() -> str:
    ask(question(), model=DIRECT, api_key=SERVICE.slow)
    return kind_of(refused(429, litellm.RateLimitError, model=DIRECT, api_key=SERVICE.slow))


def error_400() -> str:
    exc = refused(400, litellm.BadRequestError, n=2)
    assert "n:" in str(exc) or "`n`" in str(exc) or " n " in str(exc), exc
    return str(exc)[:100]


def retry(model: str) -> str:
    return expect_once(lambda text: ask(text, model=model, timeout=GIVEN_UP_S, max_retries=RETRIES))


def responses() -> str:
    made = litellm.responses(
        model=f"openai/{RUN}", input=question(), api_base=f"{SERVICE.address}/v1", api_key=SERVICE.key
    )
    said = "".join(part.text for item in made.output if item.type == "message" for part in item.content)
    assert said == NUMBER, said
    return "plain"


def background_resume() -> str:
    where = {"api_base": f"{SERVICE.address}/v1", "api_key": SERVICE.key}
    begun = litellm.responses(model=f"openai/{RUN}", input=question(slow=True), background=True, **where)
    assert begun.status in ("queued", "in_progress"), begun.status
    found = begun
    while found.status in ("queued", "in_progress"):
        found = litellm.get_responses(response_id=begun.id, custom_llm_provider="openai", **where)
    assert found.status == "completed", found.status
    return "polled; it has no call that resumes a stream"


CALLS: dict[str, Callable[[], str] | NoCall] = {
    "plain": plain,
    "streaming": streaming,
    "long_prompt": long_prompt,
    "json_schema": json_schema,
    "usage": usage,
    "error_401": lambda: kind_of(refused(401, litellm.AuthenticationError, api_key="rlm_nobody")),
    "error_402": error_402,
    "error_404": lambda: kind_of(refused(404, litellm.NotFoundError, model="nobody")),
    "error_429": error_429,
    "error_400": error_400,
    "retry_run": lambda: retry(RUN),
    "retry_direct": lambda: retry(DIRECT),
    "responses": responses,
    "background_resume": background_resume,
    "files": NoCall("not tried: its files call is for batches"),
    "models": NoCall("its list of models is its own"),
    "count_tokens": NoCall("it counts tokens itself"),
}
drive("litellm", importlib.metadata.version("litellm"), CALLS)
