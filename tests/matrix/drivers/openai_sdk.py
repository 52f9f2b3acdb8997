"""OpenAI's own SDK (2.x and 3.x)."""

import json
from typing import Any

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
ADDRESS = f"{SERVICE.address}/v1"
CLIENT = openai.OpenAI(base_url=ADDRESS, api_key=SERVICE.key, timeout=TIMEOUT_S, max_retries=0)
FORMAT = {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}}


def ask(client: openai.OpenAI, text: str, model: str = RUN, **more: Any) -> str:
    made = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)
    return str(made.choices[0].message.content)


def plain() -> str:
    said = ask(CLIENT, question())
    assert said == NUMBER, said
    return said


def streaming() -> str:
    said, thought, chunk = "", "", None
    with CLIENT.chat.completions.create(
        model=RUN, stream=True, messages=[{"role": "user", "content": question()}]
    ) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                said += choice.delta.content or ""
                thought += getattr(choice.delta, "reasoning_content", None) or ""
    assert said == NUMBER, said
    assert thought, "no progress was told"
    assert chunk is not None
    assert chunk.usage is not None, "the last chunk has no usage"
    assert chunk.usage.total_tokens > 0
    return f"{len(thought)} characters of progress"


def long_prompt() -> str:
    text = long_question()
    said = ask(CLIENT, text)
    assert said == NUMBER, said
    return f"{len(text)} bytes"


def json_schema() -> str:
    said = ask(CLIENT, question(), response_format=FORMAT)
    assert json.loads(said) == {"number": int(NUMBER)}, said
    direct = ask(CLIENT, question(), model=DIRECT, response_format=FORMAT)
    assert json.loads(direct) == {"number": int(NUMBER)}, direct
    return said


def usage() -> str:
    made = CLIENT.chat.completions.create(model=RUN, messages=[{"role": "user", "content": question()}])
    used = made.usage
    assert used is not None
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (1_000, 100, 1_100), used
    return f"{used.prompt_tokens} + {used.completion_tokens}"


def refused(
    client: openai.OpenAI, status: int, kind: type[openai.APIStatusError], **given: Any
) -> openai.APIStatusError:
    try:
        ask(client, question(), **given)
    except kind as exc:
        assert exc.status_code == status, exc.status_code
        assert exc.message, "no sentence"
        assert exc.request_id, "no id of the request"
        return exc
    raise AssertionError("it was not refused")


def error_401() -> str:
    return str(refused(CLIENT.with_options(api_key="rlm_nobody"), 401, openai.AuthenticationError).code)


def error_402() -> str:
    # With retries as a client has them: what is spent says that it is not to be tried again.
    return str(refused(CLIENT.with_options(api_key=SERVICE.spent, max_retries=2), 402, openai.APIStatusError).code)


def error_404() -> str:
    return str(refused(CLIENT, 404, openai.NotFoundError, model="nobody").code)


def error_429() -> str:
    client = CLIENT.with_options(api_key=SERVICE.slow)
    ask(client, question(), model=DIRECT)
    exc = refused(client, 429, openai.RateLimitError, model=DIRECT)
    assert int(exc.response.headers["retry-after"]) > 0
    return str(exc.code)


def error_400() -> str:
    exc = refused(CLIENT, 400, openai.BadRequestError, n=2)
    assert exc.param == "n", exc.param
    return f"param={exc.param}"


def retry(model: str) -> str:
    client = CLIENT.with_options(timeout=GIVEN_UP_S, max_retries=RETRIES)
    return expect_once(lambda text: ask(client, text, model=model))


def responses() -> str:
    first = CLIENT.responses.create(model=RUN, input=question())
    assert first.output_text == NUMBER, first.output_text
    again = CLIENT.responses.create(model=RUN, input=question(), previous_response_id=first.id)
    assert again.output_text == NUMBER, again.output_text
    said = ""
    with CLIENT.responses.create(model=RUN, input=question(), stream=True) as events:
        for event in events:
            said += event.delta if event.type == "response.output_text.delta" else ""
    assert said == NUMBER, said
    return "plain, continued, streamed"


def background_resume() -> str:
    begun = CLIENT.responses.create(model=RUN, input=question(slow=True), background=True, stream=True)
    response_id, number = "", -1
    for event in begun:
        number = event.sequence_number
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.in_progress":
            break
    begun.close()
    rest = CLIENT.responses.retrieve(response_id, stream=True, starting_after=number)
    events = list(rest)
    assert events[0].sequence_number > number, events[0].sequence_number
    assert events[-1].type == "response.completed", events[-1].type
    found = CLIENT.responses.retrieve(response_id)
    assert (found.status, found.output_text) == ("completed", NUMBER), found.status
    return f"{len(events)} events after {number}"


def files() -> str:
    made = CLIENT.files.create(file=("a.txt", f"The magic number is {NUMBER}.".encode()), purpose="user_data")
    assert made.id in {each.id for each in CLIENT.files.list()}
    assert CLIENT.files.retrieve(made.id).bytes == len(CLIENT.files.content(made.id).read())
    parts = [{"type": "file", "file": {"file_id": made.id}}, {"type": "text", "text": "What is the magic number?"}]
    said = CLIENT.chat.completions.create(model=RUN, messages=[{"role": "user", "content": parts}])
    assert said.choices[0].message.content == NUMBER, said.choices[0].message.content
    assert CLIENT.files.delete(made.id).deleted
    return "created, listed, read, asked about, deleted"


def models() -> str:
    named = [each.id for each in CLIENT.models.list()]
    assert RUN in named, named
    assert CLIENT.models.retrieve(RUN).id == RUN
    return f"{len(named)} models"


drive(
    "openai",
    openai.__version__,
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
        "responses": responses,
        "background_resume": background_resume,
        "files": files,
        "models": models,
        "count_tokens": NoCall("the SDK counts no tokens of chats"),
    },
)
