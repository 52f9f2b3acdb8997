"""Anthropic's messages over a real socket, as its SDK sends them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs.playing import SUB
from tests.web.serving import served

pytestmark = pytest.mark.anyio

PATH = "/v1/messages"


def message(*content: Any, model: str = "rlm/default", **more: Any) -> dict[str, Any]:
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": blocks}], **more}


async def test_a_message_is_answered_with_its_usage(tmp_path: Path) -> None:
    """A document is what the run is about; the answer is a block of text, the usage that of all calls."""
    async with served(tmp_path) as it:
        document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "four"}}
        reply = await it.client.post(PATH, json=message(document, "How long?", system="Be brief."))
        body = reply.json()
        assert (reply.status_code, body["type"], body["stop_reason"]) == (200, "message", "end_turn")
        assert [block["text"] for block in body["content"]] == ["4"]
        assert body["usage"]["input_tokens"] > 0
        assert body["rlm"]["run_id"] == reply.headers["x-rlm-run-id"]
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
        assert "Be brief." in it.model.root_requests[0].messages[1].content


async def test_an_answer_satisfies_the_schema_of_its_format(tmp_path: Path) -> None:
    """The model is told the schema, and another format is refused by name."""
    schema = {"type": "string", "maxLength": 1}
    async with served(tmp_path) as it:
        asked = message("four", "How long?", output_config={"format": {"type": "json_schema", "schema": schema}})
        reply = await it.client.post(PATH, json=asked)
        assert [json.loads(block["text"]) for block in reply.json()["content"]] == ["4"]
        assert any(json.dumps(schema) in each.content for each in it.model.root_requests[0].messages)
        reply = await it.client.post(PATH, json=message("four", "How long?", output_config={"format": {"type": "xml"}}))
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "output_config" in reply.json()["error"]["message"]


async def test_a_stream_is_a_block_of_thinking_and_one_of_text(tmp_path: Path) -> None:
    """Every block is begun and ended, and the last delta has the usage."""
    async with served(tmp_path) as it:
        async with it.client.stream("POST", PATH, json=message("four", "How long?", stream=True)) as reply:
            lines = [line async for line in reply.aiter_lines()]
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        assert names == [event["type"] for event in events]
        kinds = [event["type"] for event in events if event["type"] != "ping"]
        assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
        started = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
        ended = [event["index"] for event in events if event["type"] == "content_block_stop"]
        assert (started, ended) == (["thinking", "text"], [0, 1])
        text = [event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"]
        assert "".join(text) == "4"
        assert events[-2]["usage"]["output_tokens"] > 0
        assert events[-2]["delta"]["stop_reason"] == "end_turn"


async def test_refusals_are_anthropics(tmp_path: Path) -> None:
    """The form that its SDK reads, whoever refuses: the door, the shape, the service."""
    async with served(tmp_path) as it:
        replies = {
            401: await it.client.post(PATH, json=message("x"), headers={"authorization": "Bearer rlm_x"}),
            422: await it.client.post(PATH, json={"model": "rlm/default"}),
            400: await it.client.post(PATH, json=message("x", tools=[{"name": "t"}])),
            404: await it.client.post(PATH, json=message("x", model="nobody")),
            402: await it.client.post(PATH, json=message("x", rlm={"cost_usd": "0.00000001"})),
        }
        for status, reply in replies.items():
            body = reply.json()
            assert (reply.status_code, body["type"]) == (status, "error"), body
            assert body["request_id"] == reply.headers["request-id"]
        kinds = [reply.json()["error"]["type"] for reply in replies.values()]
        assert kinds == [
            "authentication_error",
            "invalid_request_error",
            "invalid_request_error",
            "not_found_error",
            "billing_error",
        ]
        assert "tools" in replies[400].json()["error"]["message"]
        assert replies[402].headers["x-should-retry"] == "false"


async def test_a_direct_message_and_its_count(tmp_path: Path) -> None:
    """`max_tokens` holds for a direct call, whose end it is told as; the count is a bound that needs no model."""
    async with served(tmp_path) as it:
        body = message("Which?", model=f"direct/{SUB}") | {"max_tokens": 3}
        reply = (await it.client.post(PATH, json=body)).json()
        assert [block["text"] for block in reply["content"]] == ["Whi"]
        counted = (await it.client.post(f"{PATH}/count_tokens", json=body)).json()
        assert counted["input_tokens"] >= len("Which?")
