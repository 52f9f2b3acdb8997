"""Responses over a real socket, as OpenAI's SDK sends them."""

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.ids import EMBEDDED_TENANT, RunId
from service.models.port import ModelReply, ModelRequest
from tests.runs.doubles import usage_of
from tests.runs.playing import SUB
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"


def about(text: str, question: str = "How long?", **more: Any) -> dict[str, Any]:
    """A request about a text."""
    content = [{"type": "input_text", "text": text}, {"type": "input_text", "text": question}]
    return {"model": "rlm/default", "input": [{"role": "user", "content": content}], **more}


def text_of(response: dict[str, Any]) -> str:
    """What the SDK's `output_text` is made of."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


async def events_of(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> list[dict[str, Any]]:
    async with client.stream(method, path, **more) as reply:
        assert reply.status_code == 200, await reply.aread()
        lines = [line async for line in reply.aiter_lines()]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def ended(it: Served, response_id: str) -> dict[str, Any]:
    """The response once its run has ended."""
    run_id = RunId(response_id.replace("resp_", "run_"))
    journal = it.rooms.tenancy.runs_of(EMBEDDED_TENANT).rooms.journal
    assert await journal.wait_for_end(run_id, at_most_s=60, unless=lambda: False)
    shown: dict[str, Any] = (await it.client.get(f"{PATH}/{response_id}")).json()
    return shown


async def test_a_response_is_kept_with_its_run(tmp_path: Path) -> None:
    """Asked and shown alike, with its usage; not kept where that is not wished; forgotten when deleted, but for its
    run; and never somebody else's."""
    async with served(tmp_path) as it:
        asked = (await it.client.post(PATH, json=about("four", metadata={"a": "b"}))).json()
        assert (asked["object"], asked["status"], text_of(asked)) == ("response", "completed", "4")
        assert asked["usage"]["total_tokens"] > 0
        path = f"{PATH}/{asked['id']}"
        assert (await it.client.get(path)).json() == asked
        async with it.as_other_tenant() as other:
            for reply in (await other.get(path), await other.post(f"{path}/cancel"), await other.delete(path)):
                assert reply.status_code == 404
        assert (await it.client.delete(path)).json()["deleted"] is True
        assert (await it.client.get(path)).status_code == 404
        assert (await it.client.get(f"/v1/runs/{asked['rlm']['run_id']}")).status_code == 200
        passing = (await it.client.post(PATH, json=about("three", store=False))).json()
        assert (await it.client.get(f"{PATH}/{passing['id']}")).status_code == 404


async def test_a_response_in_the_background_is_polled(tmp_path: Path) -> None:
    """It comes back at once and goes on alone; afterwards it says how it ended."""
    async with served(tmp_path) as it:
        begun = (await it.client.post(PATH, json=about("four", background=True))).json()
        assert (begun["status"], begun["background"], begun["output"]) == ("in_progress", True, [])
        shown = await ended(it, begun["id"])
        assert (shown["status"], text_of(shown)) == ("completed", "4")


async def test_a_response_in_the_background_is_cancelled(tmp_path: Path) -> None:
    """Its call is broken off, and cancelling again changes nothing."""
    asked = anyio.Event()

    async def never(request: ModelRequest) -> ModelReply:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with served(tmp_path, sub=never) as it:
        body = {"model": f"direct/{SUB}", "input": "Which?", "background": True}
        begun = (await it.client.post(PATH, json=body)).json()
        await asked.wait()
        for _ in range(2):
            await it.client.post(f"{PATH}/{begun['id']}/cancel")
            assert (await ended(it, begun["id"]))["status"] == "cancelled"


async def test_a_stream_tells_reasoning_and_answer_in_order(tmp_path: Path) -> None:
    """Every item and part is begun and ended, numbers grow, and the last event is the whole response."""
    async with served(tmp_path) as it:
        told = await events_of(it.client, "POST", PATH, json=about("four", stream=True))
        kinds = [event["type"].removeprefix("response.") for event in told]
        assert kinds[:2] == ["created", "in_progress"]
        assert kinds[-1] == "completed"
        for begins, ends in (
            ("output_item.added", "output_item.done"),
            ("reasoning_summary_part.added", "reasoning_summary_part.done"),
            ("content_part.added", "content_part.done"),
        ):
            assert kinds.count(begins) == kinds.count(ends) > 0
        numbers = [event["sequence_number"] for event in told]
        assert numbers == sorted(set(numbers))
        deltas = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
        assert "".join(deltas) == text_of(told[-1]["response"]) == "4"


async def test_a_stream_goes_on_from_wherever_it_broke_off(tmp_path: Path) -> None:
    """Behind any number comes exactly what followed it, also when the text was cut otherwise the first time, and within
    a piece of text."""
    text = "All of this is said again. " * 20

    async def says(request: ModelRequest) -> ModelReply:
        return ModelReply(text=text, usage=usage_of(request, text))

    async with served(tmp_path, sub=says) as it:
        body = {"model": f"direct/{SUB}", "input": "Which?", "background": True, "stream": True}
        told = await events_of(it.client, "POST", PATH, json=body)
        path = f"{PATH}/{told[0]['response']['id']}"
        first_delta = next(event for event in told if event["type"] == "response.output_text.delta")
        text_begins = first_delta["sequence_number"] - len(first_delta["delta"])
        for seen in (0, 2, text_begins + 5, text_begins + len(text) - 1, text_begins + len(text) + 1):
            rest = await events_of(it.client, "GET", path, params={"stream": "true", "starting_after": seen})
            assert rest[0]["sequence_number"] > seen
            numbers = {event["sequence_number"] for event in rest}
            assert {event["sequence_number"] for event in told if event["sequence_number"] > seen} >= numbers - {
                text_begins + len(text)
            }
            deltas = "".join(event["delta"] for event in rest if event["type"] == "response.output_text.delta")
            assert deltas == text[max(seen - text_begins, 0) :][: len(text)]
            assert rest[-1]["type"] == "response.completed"
        again = await events_of(it.client, "GET", path, params={"stream": "true"})
        assert again[-1]["response"]["output"] == told[-1]["response"]["output"]


async def test_a_response_continues_another(tmp_path: Path) -> None:
    """What was said and answered before, and what that was about, is there for the next; a response that is not there,
    or has no answer yet, cannot be continued."""
    seen: list[list[str]] = []

    async def says(request: ModelRequest) -> ModelReply:
        seen.append([message.content for message in request.messages])
        text = f"answer {len(seen)}"
        return ModelReply(text=text, usage=usage_of(request, text))

    async with served(tmp_path, sub=says) as it:
        context_id = await it.stored("the file")
        model = {"model": f"direct/{SUB}"}
        file = {"type": "input_file", "file_id": context_id}
        asks = [{"role": "user", "content": [file, {"type": "input_text", "text": "One?"}]}]
        one = (await it.client.post(PATH, json=model | {"input": asks})).json()
        two = (await it.client.post(PATH, json=model | {"input": "Two?", "previous_response_id": one["id"]})).json()
        assert two["previous_response_id"] == one["id"]
        await it.client.post(PATH, json=model | {"input": "Three?", "previous_response_id": two["id"]})
        assert seen[2] == ["One?", "answer 1", "Two?", "answer 2", "the file\n\nThree?"]
        nobodys = {"input": "Two?", "previous_response_id": "resp_" + "0" * 32}
        assert (await it.client.post(PATH, json=model | nobodys)).status_code == 404


async def test_what_a_response_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    """Tools, conversations kept elsewhere, content that is no text, a background that is not stored."""
    async with served(tmp_path) as it:
        for more, param in (
            ({"tools": [{"type": "web_search"}]}, "tools"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]"),
            ({"background": True, "store": False}, "store"),
        ):
            reply = await it.client.post(PATH, json=about("x") | more)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        for path in ("resp_1", "run_" + "0" * 32):
            assert (await it.client.get(f"{PATH}/{path}")).status_code == 404
