"""Chat completions over a real socket, as OpenAI's SDKs and other clients send them."""

import gc
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.ids import EMBEDDED_TENANT, RunId
from service.loop.values import CallOutcome
from service.models.port import ModelCallFailed, ModelReply, ModelRequest
from service.runs.answering.conversation import Conversation
from service.tenants.values import CallerLimits
from service.web.app import create_app
from tests.runs.doubles import usage_of
from tests.runs.playing import SUB, repl
from tests.web.serving import served

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
QUESTION = "How long is it?"


def chat(*content: Any, model: str = "rlm/default", **more: Any) -> dict[str, Any]:
    """A request with one message."""
    parts = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return {"model": model, "messages": [{"role": "user", "content": parts}], **more}


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[httpx.Headers, list[dict[str, Any]]]:
    """The chunks of a stream, without the word that ends it."""
    async with client.stream("POST", PATH, json=body | {"stream": True}) as reply:
        assert reply.status_code == 200, await reply.aread()
        lines = [line.removeprefix("data: ") async for line in reply.aiter_lines() if line.startswith("data: ")]
    if lines[-1] == "[DONE]":
        lines.pop()
    else:
        assert "error" in json.loads(lines[-1])
    return reply.headers, [json.loads(line) for line in lines]


async def test_a_run_answers_and_says_what_it_was(tmp_path: Path) -> None:
    """Texts before the question are its context; the reply has the answer, the tokens of all calls, the money, the run
    and how it was answered."""
    async with served(tmp_path) as it:
        reply = await it.client.post(PATH, json=chat("four", QUESTION))
        assert reply.status_code == 200, reply.text
        body = reply.json()
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "4", "refusal": None}
        assert (body["object"], body["model"]) == ("chat.completion", "rlm/default")
        assert body["choices"][0]["finish_reason"] == "stop"
        usage = body["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
        assert usage["cost"] == pytest.approx(float(body["rlm"]["spent"]["usd"]))
        assert body["rlm"]["decision"]["way"] == "rlm"
        run_id = reply.headers["x-rlm-run-id"]
        shown = (await it.client.get(f"/v1/runs/{run_id}")).json()
        assert (shown["status"], shown["question"], shown["answer"]["text"]) == ("finished", QUESTION, "4")
        assert shown["spent"] == body["rlm"]["spent"]


async def test_a_stream_thinks_aloud_and_then_answers(tmp_path: Path) -> None:
    """Progress comes as reasoning under both names in use, the answer as content, and the last chunk has the usage."""
    async with served(tmp_path) as it:
        headers, chunks = await streamed(it.client, chat("four", QUESTION))
        assert headers["content-type"].startswith("text/event-stream")
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": ""}
        thoughts = [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta]
        assert "answer['content']" in thoughts[0]
        assert thoughts == [delta["reasoning"] for delta in deltas if "reasoning" in delta]
        assert "".join(delta.get("content", "") for delta in deltas) == "4"
        last = chunks[-1]
        assert last["choices"][0]["finish_reason"] == "stop"
        assert last["usage"]["total_tokens"] > 0
        assert last["rlm"]["run_id"] == headers["x-rlm-run-id"]
        assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


async def test_a_direct_call_passes_messages_through(tmp_path: Path) -> None:
    """`direct/MODEL` is one call with instructions, what was said before and the question; it is a run, and paid."""
    async with served(tmp_path) as it:
        body = {
            "model": f"direct/{SUB}",
            "max_tokens": 50,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "One."},
                {"role": "user", "content": "Two?"},
            ],
        }
        reply = (await it.client.post(PATH, json=body)).json()
        assert reply["choices"][0]["message"]["content"] == "Two?"
        (asked,) = it.model.sub_requests
        assert [message.content for message in asked.messages] == ["Be brief.", "One?", "One.", "Two?"]
        assert asked.max_output_tokens == 50
        assert reply["rlm"]["decision"]["way"] == "direct"
        assert reply["rlm"]["spent"]["nano_usd"] > 0
        _, chunks = await streamed(it.client, body)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Two?"
        assert chunks[-1]["usage"]["total_tokens"] > 0


async def test_long_texts_become_contexts(tmp_path: Path) -> None:
    """One long message, as clients put a document and a question together, is looked into and never shown whole; what
    was said before is a list in the REPL."""
    looks = repl(
        "answer['content'] = [len(message), conversation[0]['content'], len(conversation)]\nanswer['ready'] = True"
    )
    document = "lorem ipsum " * 20_000 + "How long is this?"
    async with served(tmp_path, looks) as it:
        messages = [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello?"},
            {"role": "user", "content": document},
        ]
        reply = await it.client.post(PATH, json={"model": "rlm/default", "messages": messages})
        assert json.loads(reply.json()["choices"][0]["message"]["content"].replace("'", '"')) == [
            len(document),
            "Hello",
            2,
        ]
        question = it.model.root_requests[0].messages[1].content
        assert "How long is this?" in question
        assert len(question) < 20_000


async def test_stored_contexts_and_files_are_what_it_is_about(tmp_path: Path) -> None:
    """`rlm.context_ids` and `file_id`, for runs and for direct calls; somebody else's are not there."""
    async with served(tmp_path) as it:
        context_id = await it.stored("twelve chars")
        reply = await it.client.post(PATH, json=chat(QUESTION, rlm={"context_ids": [context_id]}))
        assert reply.json()["choices"][0]["message"]["content"] == "12"
        body = chat({"type": "file", "file": {"file_id": context_id}}, QUESTION, model=f"direct/{SUB}")
        reply = await it.client.post(PATH, json=body)
        assert reply.json()["choices"][0]["message"]["content"] == f"twelve chars\n\n{QUESTION}"
        async with it.as_other_tenant() as other:
            assert (await other.post(PATH, json=body)).status_code == 404


async def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path) -> None:
    """Parameters that would change the answer, content that is no text, and models that there are not; what only tunes
    a model is ignored."""
    async with served(tmp_path) as it:
        for more, param in (
            ({"n": 2}, "n"),
            ({"logprobs": True}, "logprobs"),
            ({"tools": [{"type": "function"}]}, "tools"),
            ({"stop": ["END"]}, "stop"),
            ({"response_format": {"type": "grammar"}}, "response_format"),
        ):
            reply = await it.client.post(PATH, json=chat(QUESTION, **more))
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        reply = await it.client.post(PATH, json=chat({"type": "image_url", "image_url": {"url": "data:"}}, QUESTION))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages[0].content")
        reply = await it.client.post(PATH, json=chat(QUESTION, model="gpt-9"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert reply.headers["x-should-retry"] == "false"
        harmless: dict[str, Any] = {
            "n": 1,
            "temperature": 0,
            "top_p": 1,
            "user": "me",
            "tools": [],
            "stream_options": {},
            "seed": 3,
        }
        assert (await it.client.post(PATH, json=chat("four", QUESTION, **harmless))).status_code == 200
        assert len(it.model.root_requests) == 1


async def test_an_answer_satisfies_its_schema_after_one_repair(tmp_path: Path) -> None:
    """A reply that breaks the schema is sent back once with what is wrong; both calls are paid, and one that is still
    wrong is an error."""
    replies = iter(['{"n": "four"}', '```json\n{"n": 4}\n```', "no", "no"])

    async def sub(request: ModelRequest) -> ModelReply:
        text = next(replies)
        return ModelReply(text=text, usage=usage_of(request, text))

    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    async with served(tmp_path, sub=sub) as it:
        body = chat(QUESTION, model=f"direct/{SUB}", response_format=form)
        _, chunks = await streamed(it.client, body)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == '{"n": 4}\n'
        assert "at $.n" in it.model.sub_requests[1].messages[-1].content
        calls = (await it.client.get(f"/v1/runs/{chunks[-1]['rlm']['run_id']}/calls")).json()["calls"]
        assert sum(call["cost"]["nano_usd"] for call in calls) == chunks[-1]["rlm"]["spent"]["nano_usd"]
        reply = await it.client.post(PATH, json=body, headers={"x-stainless-retry-count": "0"})
        assert (reply.status_code, reply.json()["code"]) == (502, "no_answer")
        assert reply.headers["x-rlm-run-id"].startswith("run_")


async def test_a_failure_after_the_first_byte_is_told_in_the_stream(tmp_path: Path) -> None:
    """The status was sent, so the stream says what went wrong in the form that SDKs raise."""

    async def fails(request: ModelRequest) -> ModelReply:
        raise ModelCallFailed(CallOutcome.REFUSED, "not today", may_be_billed=False)

    async with served(tmp_path, sub=fails) as it:
        _, chunks = await streamed(it.client, chat(QUESTION, model=f"direct/{SUB}"))
        assert chunks[-1]["error"]["code"] == "no_answer"
        assert "not today" in chunks[-1]["error"]["message"]


async def test_a_budget_that_is_spent_is_402_and_not_tried_again(tmp_path: Path) -> None:
    """SDKs retry what they may: a budget that does not cover the call says that they need not."""
    async with served(tmp_path) as it:
        for model in (f"direct/{SUB}", "rlm/default"):
            reply = await it.client.post(PATH, json=chat(QUESTION, model=model, rlm={"cost_usd": "0.00000001"}))
            assert reply.status_code == 402, reply.text
            assert reply.headers["x-should-retry"] == "false"
            assert reply.json()["error"]["type"] == "insufficient_quota"
        assert not it.model.sub_requests


async def test_a_key_needs_the_profile_or_all_that_it_stands_for(tmp_path: Path) -> None:
    """An allow-list may name profiles, or models; what it has neither of is refused."""
    async with served(tmp_path) as it:
        for models, status in ((("rlm/*",), 200), (("openai/*",), 200), (("rlm/fast",), 403), ((SUB,), 403)):
            async with it.client_with(await it.secret(models=models)) as client:
                assert (await client.post(PATH, json=chat("four", QUESTION))).status_code == status, models


async def test_what_comes_with_a_question_counts_as_kept(tmp_path: Path) -> None:
    """A key that may keep so much is refused what its messages would store, before any money is spent."""
    async with served(tmp_path) as it:
        async with it.client_with(await it.secret(limits=CallerLimits(storage_bytes=1_000))) as client:
            assert (await client.post(PATH, json=chat("four", QUESTION))).status_code == 200
            reply = await client.post(PATH, json=chat("x" * 2_000, QUESTION))
            assert (reply.status_code, reply.json()["code"]) == (429, "quota_exceeded")
            reply = await client.post("/v1/files", files={"file": ("a.txt", b"y" * 2_000)})
            assert (reply.status_code, reply.json()["code"]) == (429, "quota_exceeded")
        assert len(it.model.root_requests) == 1


async def test_the_key_that_made_a_key_pays_too(tmp_path: Path) -> None:
    """Runs and direct calls of a descendant count against its ancestors' limits."""
    async with served(tmp_path) as it:
        parent = await it.secret(limits=CallerLimits(nano_usd_per_day=10))
        async with it.client_with(parent) as client:
            made = await client.post("/v1/keys", json={"name": "child", "scopes": ["runs"]})
            assert made.status_code == 201, made.text
        async with it.client_with(made.json()["secret"]) as client:
            for model in (f"direct/{SUB}", "rlm/default"):
                reply = await client.post(PATH, json=chat("four", QUESTION, model=model))
                assert (reply.status_code, reply.json().get("code")) == (402, "budget_exceeded"), reply.text


async def test_a_stream_that_everybody_left_is_cancelled(tmp_path: Path) -> None:
    """A client that goes away and does not come back within the grace pays for nothing more."""

    async def never(request: ModelRequest) -> ModelReply:
        await anyio.sleep_forever()
        raise AssertionError

    async with served(tmp_path, sub=never, grace_s=0.0) as it:
        body = chat(QUESTION, model=f"direct/{SUB}", stream=True)
        async with it.client.stream("POST", PATH, json=body) as reply:
            run_id = RunId(reply.headers["x-rlm-run-id"])
            await anext(reply.aiter_bytes())
        await it.rooms.tenancy.runs_of(EMBEDDED_TENANT).rooms.journal.wait_for_end(
            run_id, at_most_s=60, unless=lambda: False
        )
        assert (await it.client.get(f"/v1/runs/{run_id}")).json()["stop_reason"] == "cancelled"


async def test_a_stream_that_was_left_at_its_first_byte_is_cancelled(tmp_path: Path) -> None:
    """Also a client that goes away while the first event is being sent, before any was asked for, is missed."""

    async def never(request: ModelRequest) -> ModelReply:
        await anyio.sleep_forever()
        raise AssertionError

    async with served(tmp_path, sub=never, grace_s=0.0) as it:
        bodies = [json.dumps(chat(QUESTION, model=f"direct/{SUB}", stream=True)).encode()]
        heads = [
            (b"authorization", it.client.headers["authorization"].encode()),
            (b"content-type", b"application/json"),
        ]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
        }
        scope |= {"headers": heads, "http_version": "1.1", "scheme": "http"}
        scope["asgi"] = {"version": "3.0"}
        sending = anyio.Event()
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await sending.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                sending.set()
                await anyio.sleep_forever()

        await create_app(it.rooms)(scope, receive, send)
        run_id = RunId(dict(sent[0]["headers"])[b"x-rlm-run-id"].decode())
        journal = it.rooms.tenancy.runs_of(EMBEDDED_TENANT).rooms.journal
        assert await journal.wait_for_end(run_id, at_most_s=60, unless=lambda: False)
        assert (await it.client.get(f"/v1/runs/{run_id}")).json()["stop_reason"] == "cancelled"


async def test_a_client_that_came_back_elsewhere_cancels_nothing(tmp_path: Path) -> None:
    """Who left this replica may be listening at another one, whose affair the run then is."""
    may_answer = anyio.Event()

    async def waits(request: ModelRequest) -> ModelReply:
        await may_answer.wait()
        return ModelReply(text="This.", usage=usage_of(request, "This."))

    async with served(tmp_path, sub=waits, grace_s=0.0) as it:
        journal = it.rooms.tenancy.runs_of(EMBEDDED_TENANT).rooms.journal
        body = chat(QUESTION, model=f"direct/{SUB}")
        async with it.client.stream("POST", PATH, json=body | {"stream": True}) as reply:
            run_id = RunId(reply.headers["x-rlm-run-id"])
            chunks = reply.aiter_bytes()
            await anext(chunks)
            while await journal.last_listener(run_id) is None:  # noqa: ASYNC110 -- the store is asked, nobody tells
                await anyio.sleep(0.01)
            await journal.note_listener(run_id, "another replica")
        await it.client.get("/livez")
        may_answer.set()
        assert await journal.wait_for_end(run_id, at_most_s=60, unless=lambda: False)
        assert (await it.client.get(f"/v1/runs/{run_id}")).json()["stop_reason"] == "answered"


async def test_a_stream_keeps_nothing_of_the_conversation(tmp_path: Path) -> None:
    """What was sent is let go as soon as its run has begun, however long its answer is followed."""
    may_answer = anyio.Event()

    async def waits(request: ModelRequest) -> ModelReply:
        await may_answer.wait()
        return ModelReply(text="This.", usage=usage_of(request, "This."))

    def is_kept(question: str) -> bool:
        gc.collect()
        return any(isinstance(each, Conversation) and question in each.parts for each in gc.get_objects())

    async with served(tmp_path, sub=waits) as it:
        question = f"What is kept of {tmp_path.name}?"
        body = chat(question, model=f"direct/{SUB}", stream=True)
        async with it.client.stream("POST", PATH, json=body) as reply:
            chunks = reply.aiter_bytes()
            await anext(chunks)
            with anyio.fail_after(30):
                while is_kept(question):  # noqa: ASYNC110 -- nobody tells
                    await anyio.sleep(0.1)
            may_answer.set()
            assert b"This." in b"".join([chunk async for chunk in chunks])
