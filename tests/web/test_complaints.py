"""What is wrong with a request's fields, told to whoever wrote JSON and knows nothing of Python."""

from typing import Any

import pytest

from tests.web.serving import Served

pytestmark = pytest.mark.anyio

WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("/v1/runs", {"question": "x"}, "body.root_model", "is required"),
    ("/v1/runs", {"question": 7, "root_model": "m"}, "body.question", "expected a string"),
    ("/v1/runs", {"question": "x", "root_model": "m", "contexts": "c"}, "body.contexts", "expected a list"),
    ("/v1/runs", {"question": "x", "root_model": "m", "contexts": ["c"]}, "body.contexts.0", "expected an object"),
    ("/v1/runs", {"question": "x", "root_model": "m", "budget": 1}, "body.budget", "there is no field of this name"),
    (
        "/v1/runs",
        {"question": "x", "root_model": "m", "limits": {"turns": 1.5}},
        "body.limits.turns",
        "expected a whole number",
    ),
    ("/v1/contexts", {"text": "a", "value": 1}, "body", "expected exactly one of text, texts, value and open"),
    ("/v1/responses", {"model": "rlm/default", "input": 7}, "body.input", "expected a string"),
    (
        "/v1/responses",
        {"model": "rlm/default", "input": [{"role": "user", "content": [{"type": 7}]}]},
        "body.input.0.content.0.type",
        "expected a string",
    ),
]


@pytest.mark.parametrize(("path", "body", "at", "message"), WRONG)
async def test_a_field_is_told_by_its_place_in_the_words_of_json(
    it: Served, path: str, body: dict[str, Any], at: str, message: str
) -> None:
    """The first complaint names the field as it was sent, and no class or type of Python."""
    reply = await it.client.post(path, json=body)
    assert reply.status_code == 422, reply.text
    first = reply.json()["data"]["errors"][0]
    assert first["at"] == at
    assert message in first["message"]
    for word in ("instance of", "dictionary", "Input should be a valid dict", "Value error", "str]", "["):
        assert word not in f"{first['at']} {first['message']}"
