"""What is wrong with a request's fields, told to whoever wrote JSON and knows nothing of Python."""

from typing import Any

import pytest

from service.web import patterns
from service.web.complaints import complaints
from tests.runs.playing import ROOT
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


JSON_LINES = {"content-type": "application/jsonl"}
WRONG_STRINGS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/v1/sessions", {"json": {"budget_usd": "five"}}, 'such as "0.50"'),
    ("POST", "/v1/sessions", {"json": {"budget_usd": 0.5}}, 'such as "0.50"'),
    ("POST", "/v1/runs", {"json": {"question": "x", "root_model": "m", "session_id": "s"}}, "ses_ and 32"),
    ("POST", "/v1/runs", {"json": {"question": "x", "root_model": "m", "contexts": [{"context_id": "c"}]}}, "ctx_ and"),
    ("GET", "/v1/usage", {"params": {"group_by": "week"}}, "day, model, key, session"),
    ("GET", "/v1/usage", {"params": {"key_id": "k"}}, "key_ and 32"),
    ("GET", "/v1/usage", {"params": {"first": "2026-11-30", "last": "2026-11-01"}}, "lies behind the last"),
    ("POST", "/v1/runs", {"json": {"question": "x", "root_model": ROOT}}, "store one first"),
    (
        "GET",
        "/v1/runs",
        {"params": {"status": "weird"}},
        "status: there is no parameter of this name: there are cursor",
    ),
    ("GET", "/v1/contexts", {"params": {"kind": "text"}}, "kind: there is no parameter of this name"),
    ("GET", "/v1/audit", {"params": {"since": "2026-11-01"}}, "since: there is no parameter of this name"),
    (
        "GET",
        "/v1/runs/run_" + "0" * 32,
        {"params": {"timeout": "5"}},
        "timeout: there is no parameter of this name: there are wait",
    ),
    ("PUT", f"/v1/contexts/ctx_{'0' * 32}/parts/%FF", {"content": b"a"}, "the path of the URL must be UTF-8"),
    ("GET", "/v1/contexts?cursor=%FE", {}, "the query of the URL must be UTF-8"),
    ("POST", "/v1/runs:import", {"content": b"notes\n", "headers": JSON_LINES}, "/export gave"),
    ("POST", "/v1/runs:import", {"content": b"{}\n", "headers": JSON_LINES}, "/export gave"),
]


@pytest.mark.parametrize(("method", "path", "sent", "message"), WRONG_STRINGS)
async def test_a_wrong_value_is_told_what_would_be_right(
    it: Served, method: str, path: str, sent: dict[str, Any], message: str
) -> None:
    """Whoever wrote it reads what to write instead, and no regular expression."""
    reply = await it.client.request(method, path, **sent)
    assert reply.status_code in (400, 422), reply.text
    assert message in reply.json()["detail"], reply.text
    assert "pattern" not in reply.text


def test_every_pattern_has_its_words() -> None:
    """No string that a request carries is refused with the pattern it does not match."""
    declared = {value for name, value in vars(patterns).items() if name.isupper() and value.startswith("^")}
    for pattern in declared:
        error = {"type": "string_pattern_mismatch", "msg": f"String should match pattern '{pattern}'", "loc": ("body",)}
        (told,) = complaints([error | {"ctx": {"pattern": pattern}}])
        assert told["message"].startswith("expected ")


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
