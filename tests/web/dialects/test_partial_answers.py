"""What a run had so far when it was ended, told in every dialect: labelled, and never in the
place of JSON that was asked for."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.web.serving import served

pytestmark = pytest.mark.anyio

PROSE = "It seems to have four letters."
FITS = '{"n": 4}'
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
SAID = [{"role": "user", "content": "How long is it?"}]

ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "rlm/default", "messages": SAID},
    "/v1/responses": {"model": "rlm/default", "input": "How long is it?"},
    "/v1/messages": {"model": "rlm/default", "max_tokens": 100, "messages": SAID},
}
WITH_SCHEMA: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"response_format": FORM},
    "/v1/responses": {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
    "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
CUT_SHORT = ("length", "incomplete", "max_tokens")
"""How the dialects say that an answer is what there was until a limit."""


def told(body: dict[str, Any]) -> tuple[str, str]:
    """The text of an answer, and how it says that it ended."""
    if "choices" in body:
        return body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]
    if "output" in body:
        return body["output"][-1]["content"][0]["text"], body["status"]
    return body["content"][0]["text"], body["stop_reason"]


def fresh(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    """A request of a client that says it is its first try."""
    return client.post(path, json=body, headers={"x-stainless-retry-count": "0"})


@pytest.mark.parametrize("path", ASKED)
async def test_what_a_run_had_so_far_is_told_as_such(tmp_path: Path, path: str) -> None:
    """A root LM that never submits ends its run with its last words, which are told as cut short."""
    async with served(tmp_path, PROSE) as it:
        reply = await fresh(it.client, path, ASKED[path])
        assert reply.status_code == 200, reply.text
        text, ending = told(reply.json())
        assert (text, ending in CUT_SHORT) == (PROSE, True)


@pytest.mark.parametrize("path", ASKED)
async def test_what_breaks_the_schema_is_no_answer(tmp_path: Path, path: str) -> None:
    """Where JSON of a shape was asked for, last words of another shape are an error that names the run, in a body and
    in a stream; the run itself keeps them."""
    async with served(tmp_path, PROSE) as it:
        body = ASKED[path] | WITH_SCHEMA[path]
        reply = await fresh(it.client, path, body)
        assert reply.status_code == 502, reply.text
        assert reply.json()["error"]["code"] == "no_answer"
        assert "does not satisfy the JSON schema" in reply.json()["error"]["message"]
        assert reply.headers["x-should-retry"] == "false"
        run_id = reply.headers["x-rlm-run-id"]
        assert (await it.client.get(f"/v1/runs/{run_id}/answer")).text == PROSE
        streamed = await fresh(it.client, path, body | {"stream": True})
        assert streamed.status_code == 200
        events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: {")]
        assert "no_answer" in events[-1]
        as_progress = ("reasoning", "thinking")
        assert not [each for each in events if PROSE in each and not any(mark in each for mark in as_progress)]


@pytest.mark.parametrize("path", ASKED)
async def test_what_satisfies_the_schema_is_told_even_so(tmp_path: Path, path: str) -> None:
    """Last words that happen to be what was asked for are given out, as cut short."""
    async with served(tmp_path, FITS) as it:
        reply = await fresh(it.client, path, ASKED[path] | WITH_SCHEMA[path])
        assert reply.status_code == 200, reply.text
        text, ending = told(reply.json())
        assert (json.loads(text), ending in CUT_SHORT) == ({"n": 4}, True)


async def test_a_run_that_broke_the_schema_does_not_stand_for_the_next_try(tmp_path: Path) -> None:
    """Asked again by a client that says nothing of tries, it is worked on anew: there is no answer to give."""
    path = "/v1/chat/completions"
    async with served(tmp_path, PROSE) as it:
        first, again = [await it.client.post(path, json=ASKED[path] | WITH_SCHEMA[path]) for _ in range(2)]
        assert first.headers["x-rlm-run-id"] != again.headers["x-rlm-run-id"]
