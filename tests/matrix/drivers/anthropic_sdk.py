"""Anthropic's own SDK."""

import json
from typing import Any

import anthropic

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
CLIENT = anthropic.Anthropic(base_url=SERVICE.address, api_key=SERVICE.key, timeout=TIMEOUT_S, max_retries=0)
BUDGET = 500


def ask(client: anthropic.Anthropic, text: str, model: str = RUN, **more: Any) -> str:
    made = client.messages.create(model=model, max_tokens=BUDGET, messages=[{"role": "user", "content": text}], **more)
    return "".join(block.text for block in made.content if block.type == "text")


def plain() -> str:
    said = ask(CLIENT, question())
    assert said == NUMBER, said
    return said


def streaming() -> str:
    with CLIENT.messages.stream(
        model=RUN, max_tokens=BUDGET, messages=[{"role": "user", "content": question()}]
    ) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == NUMBER, said
    assert final.stop_reason == "end_turn", final.stop_reason
    thought = "".join(block.thinking for block in final.content if block.type == "thinking")
    assert thought, "no progress was told"
    return f"{len(thought)} characters of progress"


def long_prompt() -> str:
    text = long_question()
    said = ask(CLIENT, text)
    assert said == NUMBER, said
    return f"{len(text)} bytes"


def json_schema() -> str:
    config = {"format": {"type": "json_schema", "schema": SCHEMA}}
    said = [ask(CLIENT, question(), model=model, output_config=config) for model in (RUN, DIRECT)]
    assert [json.loads(each) for each in said] == [{"number": int(NUMBER)}] * 2, said
    return said[0]


def usage() -> str:
    made = CLIENT.messages.create(model=RUN, max_tokens=BUDGET, messages=[{"role": "user", "content": question()}])
    assert (made.usage.input_tokens, made.usage.output_tokens) == (1_000, 100), made.usage
    return f"{made.usage.input_tokens} + {made.usage.output_tokens}"


def refused(
    client: anthropic.Anthropic, status: int, kind: type[anthropic.APIStatusError], **given: Any
) -> anthropic.APIStatusError:
    try:
        ask(client, question(), **given)
    except kind as exc:
        assert exc.status_code == status, exc.status_code
        assert exc.request_id, "no id of the request"
        assert exc.body["error"]["message"], "no sentence"
        return exc
    raise AssertionError("it was not refused")


def type_of(exc: anthropic.APIStatusError) -> str:
    return str(exc.body["error"]["type"])


def error_401() -> str:
    return type_of(refused(CLIENT.with_options(api_key="rlm_nobody"), 401, anthropic.AuthenticationError))


def error_402() -> str:
    client = CLIENT.with_options(api_key=SERVICE.spent, max_retries=2)
    return type_of(refused(client, 402, anthropic.APIStatusError))


def error_404() -> str:
    return type_of(refused(CLIENT, 404, anthropic.NotFoundError, model="nobody"))


def error_429() -> str:
    client = CLIENT.with_options(api_key=SERVICE.slow)
    ask(client, question(), model=DIRECT)
    exc = refused(client, 429, anthropic.RateLimitError, model=DIRECT)
    assert int(exc.response.headers["retry-after"]) > 0
    return type_of(exc)


def error_400() -> str:
    tools = [{"name": "t", "input_schema": {"type": "object"}}]
    exc = refused(CLIENT, 400, anthropic.BadRequestError, tools=tools)
    assert "tools" in exc.body["error"]["message"], exc.body
    return "names tools"


def retry(model: str) -> str:
    client = CLIENT.with_options(timeout=GIVEN_UP_S, max_retries=RETRIES)
    return expect_once(lambda text: ask(client, text, model=model))


def models() -> str:
    named = [each.id for each in CLIENT.models.list()]
    assert RUN in named, named
    assert CLIENT.models.retrieve(RUN).id == RUN
    return f"{len(named)} models"


def count_tokens() -> str:
    counted = CLIENT.messages.count_tokens(model=RUN, messages=[{"role": "user", "content": "hello"}])
    assert counted.input_tokens > 0
    return f"at most {counted.input_tokens}"


drive(
    "anthropic",
    anthropic.__version__,
    {
        "plain": plain,
        "streaming": streaming,
        "long_prompt": long_prompt,
        "json_schema": json_schema,
        "usage": usage,
        "error_401": error_401,
        "error_402": error_402,
        "error_404": error_404,
        "error_429": error_429,
        "error_400": error_400,
        "retry_run": lambda: retry(RUN),
        "retry_direct": lambda: retry(DIRECT),
        "responses": NoCall("Anthropic's API has no responses"),
        "background_resume": NoCall("Anthropic's API has no runs in the background"),
        "files": NoCall("Anthropic's files are a beta of other shapes, which the service does not speak"),
        "models": models,
        "count_tokens": count_tokens,
    },
)
