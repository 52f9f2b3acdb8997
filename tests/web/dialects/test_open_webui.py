"""What Open WebUI sends to an OpenAI-compatible server, played back: it is far too large to be installed for a test.

Its shapes are those of its `routers/openai.py`: a base URL to which it appends `/models` and `/chat/completions`, a
bearer key, headers about its own user, and sampling parameters of its settings beside the messages.
"""

import json
from typing import Any

import pytest

from tests.web.serving import Served

pytestmark = pytest.mark.anyio

BASE = "/v1"
ABOUT_ITS_USER = {
    "x-openwebui-user-name": "Ada%20Lovelace",
    "x-openwebui-user-id": "8c8f4d0e-53a9-4d0e-9d3c-0b0f3c5f7a11",
    "x-openwebui-user-email": "ada@example.com",
    "x-openwebui-user-role": "user",
    "x-openwebui-chat-id": "f6a0c6cb-58a7-4a4e-9a0e-2c6f54f5a1de",
}
SETTINGS: dict[str, Any] = {
    "stream_options": {"include_usage": True},
    "temperature": 0.8,
    "top_p": 0.9,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "seed": 7,
    "max_tokens": 1024,
    "logit_bias": {},
    "reasoning_effort": "medium",
    "user": {"id": "8c8f4d0e", "name": "Ada Lovelace", "email": "ada@example.com", "role": "user"},
    "metadata": {"chat_id": "f6a0c6cb"},
}


async def test_its_list_of_models_is_what_it_can_ask(it: Served) -> None:
    """It lists what `data` has an `id` of, and asks for a model by that id."""
    listed = (await it.client.get(f"{BASE}/models", headers=ABOUT_ITS_USER)).json()
    ids = [model["id"] for model in listed["data"]]
    assert "rlm/default" in ids
    assert all(model.get("name", model["id"]) for model in listed["data"])


async def test_a_chat_with_earlier_messages_is_streamed(it: Served) -> None:
    """A chat is sent whole each time, with a system prompt; progress comes as reasoning, the answer as content, usage
    at the end."""
    said = [
        {"role": "system", "content": "User Context:\nAnswer briefly."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, what can I do for you?"},
        {"role": "user", "content": "How many messages were there?"},
    ]
    body = {"model": "rlm/default", "messages": said, "stream": True, **SETTINGS}
    reply = await it.client.post(f"{BASE}/chat/completions", json=body, headers=ABOUT_ITS_USER)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert all(chunk["choices"] for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "2"
    assert any(delta.get("reasoning_content") for delta in deltas)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] > 0


async def test_its_own_tasks_are_answered_whole(it: Served) -> None:
    """Titles and tags are asked for without a stream, and with another name for the length of the reply."""
    task = {"role": "user", "content": "### Task:\nGenerate a concise title.\n### Chat History:\nUSER: Hello."}
    body = {"model": "rlm/default", "messages": [task], "stream": False, "max_completion_tokens": 1000}
    reply = await it.client.post(f"{BASE}/chat/completions", json=body, headers=ABOUT_ITS_USER)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"]


async def test_a_refusal_has_the_sentence_where_it_looks_for_it(it: Served) -> None:
    """What it shows of a refusal is its `error`, or that one's `message`: a picture is refused by name."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    body = {"model": "rlm/default", "messages": asked, "stream": True, **SETTINGS}
    reply = await it.client.post(f"{BASE}/chat/completions", json=body, headers=ABOUT_ITS_USER)
    assert reply.status_code == 400
    assert "messages[0].content" in reply.json()["error"]["message"]
