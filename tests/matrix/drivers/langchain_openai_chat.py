"""LangChain's `ChatOpenAI`."""

import importlib.metadata
from typing import Any

import langchain_openai
import openai

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


def model(name: str = RUN, **more: Any) -> Any:
    given = {"api_key": SERVICE.key, "timeout": TIMEOUT_S, "max_retries": 0} | more
    return langchain_openai.ChatOpenAI(model=name, base_url=f"{SERVICE.address}/v1", **given)


def plain() -> str:
    said = model().invoke(question()).content
    assert said == NUMBER, said
    return str(said)


def streaming() -> str:
    said = "".join(chunk.content for chunk in model().stream(question()))
    assert said == NUMBER, said
    return "the answer; LangChain leaves progress out"


def long_prompt() -> str:
    text = long_question()
    said = model().invoke(text).content
    assert said == NUMBER, said
    return f"{len(text)} bytes"


def json_schema() -> str:
    said = model().with_structured_output(SCHEMA | {"title": "number"}, method="json_schema").invoke(question())
    assert said == {"number": int(NUMBER)}, said
    return str(said)


def usage() -> str:
    used = model().invoke(question()).usage_metadata
    assert (used["input_tokens"], used["output_tokens"]) == (1_000, 100), used
    return f"{used['input_tokens']} + {used['output_tokens']}"


def refused(status: int, asked: Any) -> openai.APIStatusError:
    try:
        asked.invoke(question())
    except openai.APIStatusError as exc:
        assert exc.status_code == status, exc
        return exc
    raise AssertionError("it was not refused")


def error_429() -> str:
    asked = model(DIRECT, api_key=SERVICE.slow)
    asked.invoke(question())
    return str(refused(429, asked).code)


def error_400() -> str:
    exc = refused(400, model(n=2))
    assert exc.param == "n", exc.param
    return f"param={exc.param}"


def retry(name: str) -> str:
    return expect_once(lambda text: str(model(name, timeout=GIVEN_UP_S, max_retries=RETRIES).invoke(text).content))


def responses() -> str:
    said = model(use_responses_api=True).invoke(question()).text
    said = said() if callable(said) and not isinstance(said, str) else said
    assert said == NUMBER, said
    return "plain"


drive(
    "langchain-openai",
    importlib.metadata.version("langchain-openai"),
    {
        "plain": plain,
        "streaming": streaming,
        "long_prompt": long_prompt,
        "json_schema": json_schema,
        "usage": usage,
        "error_401": lambda: str(refused(401, model(api_key="rlm_nobody")).code),
        "error_402": lambda: str(refused(402, model(api_key=SERVICE.spent, max_retries=2)).code),
        "error_404": lambda: str(refused(404, model("nobody")).code),
        "error_429": error_429,
        "error_400": error_400,
        "retry_run": lambda: retry(RUN),
        "retry_direct": lambda: retry(DIRECT),
        "responses": responses,
        "background_resume": NoCall("ChatOpenAI waits for its answers"),
        "files": NoCall("ChatOpenAI has no files"),
        "models": NoCall("ChatOpenAI lists no models"),
        "count_tokens": NoCall("ChatOpenAI counts tokens itself"),
    },
)
