"""Bodies that are wrong in as many places as fit into them."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from service.web.account.key_shapes import GivenKey
from service.web.contexts.shapes import GivenContext
from service.web.dialects.anthropic.shapes import CountRequest, MessageRequest
from service.web.dialects.openai.chat_shapes import ChatCompletionRequest
from service.web.dialects.openai.responses.shapes import ResponseRequest
from service.web.runs.shapes import RunSubmission
from service.web.shapes import MOST_TOLD_ERRORS

MANY = 500
_USER = {"role": "user"}


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (GivenContext, {"texts": [1] * MANY}),
        (GivenContext, {f"unknown{number}": 1 for number in range(MANY)}),
        (RunSubmission, {"question": "?", "root_model": "m", "contexts": [1] * MANY, "tools": [1] * MANY}),
        (GivenKey, {"models": [1] * MANY}),
        (ChatCompletionRequest, {"model": "m", "messages": [1] * MANY}),
        (ChatCompletionRequest, {"model": "m", "messages": [{**_USER, "content": [1] * MANY}]}),
        (ChatCompletionRequest, {"model": "m", "messages": [_USER], "rlm": {"context_ids": [1] * MANY}}),
        (ResponseRequest, {"model": "m", "input": [1] * MANY}),
        (ResponseRequest, {"model": "m", "input": [{**_USER, "content": [1] * MANY}]}),
        (CountRequest, {"model": "m", "messages": [{**_USER, "content": [1] * MANY}]}),
        (MessageRequest, {"model": "m", "messages": [1] * MANY, "system": [1] * MANY}),
        (MessageRequest, {"model": "m", "messages": [{**_USER, "content": [1] * MANY}] * MANY}),
    ],
)
def test_a_body_that_is_wrong_everywhere_is_told_so_in_few_places(shape: type[BaseModel], body: dict[str, Any]) -> None:
    """However many errors a body has, few are made: the work to refuse it does not grow with them."""
    with pytest.raises(ValidationError) as refused:
        shape.model_validate(body)
    assert refused.value.error_count() <= 10 < MOST_TOLD_ERRORS


def test_all_messages_together_have_a_bounded_number_of_parts() -> None:
    """Each may have as many as one may have, and all of them no more than ten times that."""
    text = [{"type": "text", "text": "x"}] * 1_000
    for shape, member in ((ChatCompletionRequest, "messages"), (CountRequest, "messages"), (ResponseRequest, "input")):
        fits = {"model": "m", member: [{**_USER, "content": text}] * 10}
        shape.model_validate(fits)
        with pytest.raises(ValidationError, match="at most 10000 are looked at"):
            shape.model_validate({"model": "m", member: [{**_USER, "content": text}] * 11})


def test_a_list_of_a_client_is_bounded() -> None:
    """A message has at most so many parts, whatever its dialect."""
    text = [{"type": "text", "text": "x"}] * 2_000
    for shape in (ChatCompletionRequest, CountRequest):
        with pytest.raises(ValidationError, match="at most 1000 items"):
            shape.model_validate({"model": "m", "messages": [{**_USER, "content": text}]})
