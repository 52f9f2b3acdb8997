"""The same request again: a client that gave up waiting gets the run that it has paid for."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.contexts.values import Context
from service.ids import EMBEDDED_TENANT, KeyId, RunId, new_id
from service.models.port import ModelReply, ModelRequest
from service.runs.answering.answering import Answering
from service.runs.answering.conversation import Conversation
from service.runs.calls.purse import run_account
from service.web.app import create_app
from tests.runs.doubles import usage_of
from tests.runs.playing import SUB
from tests.web.serving import Served, served

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
BODY = {"model": f"direct/{SUB}", "messages": [{"role": "user", "content": "Which?"}]}
COUNT = "x-stainless-retry-count"


class Slow:
    """A model that answers when it is let."""

    def __init__(self) -> None:
        self.was_asked = anyio.Event()
        self.may_answer = anyio.Event()
        self.calls = 0

    async def __call__(self, request: ModelRequest) -> ModelReply:
        self.calls += 1
        self.was_asked.set()
        await self.may_answer.wait()
        return ModelReply(text="This.", usage=usage_of(request, "This."))


async def ask(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    reply = await client.post(PATH, json=BODY | more, headers=headers or {})
    assert reply.status_code == 200, reply.text
    return reply


async def run_of(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **more: Any) -> str:
    run_id: str = (await ask(client, headers, **more)).headers["x-rlm-run-id"]
    return run_id


@pytest.mark.parametrize("headers", [{}, {COUNT: "1"}], ids=["a client that does not count", "an SDK's second try"])
async def test_a_retry_while_the_first_is_live_attaches(tmp_path: Path, headers: dict[str, str]) -> None:
    """The first try's connection is gone, its call is not: the second is given the same run, and one call is paid."""
    slow = Slow()
    first_headers = {COUNT: "0"} if headers else {}
    async with served(tmp_path, sub=slow) as it, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as first:

            async def lose_the_first() -> None:
                await slow.was_asked.wait()
                first.cancel()

            tasks.start_soon(lose_the_first)
            await ask(it.client, first_headers)
        replies: list[httpx.Response] = []

        async def again() -> None:
            replies.append(await ask(it.client, headers))

        async with anyio.create_task_group() as retries:
            retries.start_soon(again)
            retries.start_soon(again)
            slow.may_answer.set()
        assert {reply.json()["choices"][0]["message"]["content"] for reply in replies} == {"This."}
        assert len({reply.headers["x-rlm-run-id"] for reply in replies}) == 1
        assert all(reply.headers["idempotent-replayed"] == "true" for reply in replies)
        assert all(reply.json()["rlm"]["was_asked_before"] for reply in replies)
        assert slow.calls == 1


async def test_a_first_try_gets_a_run_of_its_own(tmp_path: Path) -> None:
    """A client that counts its tries may ask the same twice on purpose; its retry attaches to the later one."""
    async with served(tmp_path) as it:
        one, two = [await run_of(it.client, {COUNT: "0"}) for _ in range(2)]
        assert one != two
        assert await run_of(it.client, {COUNT: "2"}) == two


@pytest.mark.parametrize("answers_at_once", [False, True], ids=["before the answer", "behind it"])
async def test_a_first_try_is_given_what_its_client_has_left(tmp_path: Path, answers_at_once: bool) -> None:
    """A client that retries above an SDK calls each try its first: the one that comes back for a run that was left is
    given it, one that comes besides gets a run of its own."""
    slow = Slow()
    async with served(tmp_path, sub=slow) as it, anyio.create_task_group() as tasks:
        left = await leave(it, {COUNT: "0"}, when=slow.was_asked)
        if answers_at_once:
            slow.may_answer.set()
            journal = it.rooms.tenancy.runs_of(EMBEDDED_TENANT).rooms.journal
            assert await journal.wait_for_end(left, at_most_s=60, unless=lambda: False)
        given: list[str] = []

        async def again() -> None:
            given.append(await run_of(it.client, {COUNT: "0"}))

        tasks.start_soon(again)
        tasks.start_soon(again)
        slow.may_answer.set()
    assert left in given
    assert len(set(given)) == 2
    assert slow.calls == 2


async def leave(it: Served, headers: dict[str, str], *, when: anyio.Event) -> RunId:
    """Ask, and close the connection then; the run that was left."""
    sent = {"authorization": it.client.headers["authorization"], "content-type": "application/json"} | headers
    bodies = [httpx.Request("POST", "http://x", json=BODY).content]  # the same bytes as of `ask`

    async def receive() -> dict[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        await when.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        raise AssertionError("nobody is told anything")

    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"}
    scope |= {"method": "POST"}
    scope |= {"path": PATH, "raw_path": PATH.encode(), "query_string": b""}
    scope |= {"headers": [(name.encode(), value.encode()) for name, value in sent.items()]}
    await create_app(it.rooms)(scope, receive, send)
    (run_id,) = [view.run_id for view in await it.stage.service.runs.ls(10)]
    return run_id


async def test_other_bodies_keys_and_routes_are_other_requests(tmp_path: Path) -> None:
    """Only the same body of the same key to the same route is the same request."""
    async with served(tmp_path) as it:
        one = await run_of(it.client)
        assert await run_of(it.client) == one
        assert await run_of(it.client, user="somebody else") != one
        async with it.client_with(await it.secret()) as other_key:
            assert await run_of(other_key) != one
        async with it.as_other_tenant() as other:
            assert await run_of(other) != one


async def test_what_failed_is_done_again(tmp_path: Path) -> None:
    """A run that ended without an answer stands for nothing: the next try is a new one."""
    calls = 0

    async def once_refused(request: ModelRequest) -> ModelReply:
        nonlocal calls
        calls += 1
        text = "no" if calls <= 2 else "{}"
        return ModelReply(text=text, usage=usage_of(request, text))

    async with served(tmp_path, sub=once_refused) as it:
        form = {"response_format": {"type": "json_object"}}
        failed = await it.client.post(PATH, json=BODY | form)
        assert failed.status_code == 502, failed.text
        reply = await ask(it.client, {COUNT: "1"}, **form)
        assert reply.json()["choices"][0]["message"]["content"] == "{}"
        assert reply.headers["x-rlm-run-id"] != failed.headers["x-rlm-run-id"]


async def test_an_idempotency_key_stands_for_one_body(tmp_path: Path) -> None:
    """A client's own key decides: the same run for the same body, a refusal for another."""
    async with served(tmp_path) as it:
        key = {"idempotency-key": "mine", COUNT: "0"}
        assert await run_of(it.client, key) == await run_of(it.client, key)
        reply = await it.client.post(PATH, json=BODY | {"user": "other"}, headers=key)
        assert (reply.status_code, reply.json()["code"]) == (422, "idempotency_key_reused")


async def test_two_tries_that_begin_one_call_make_one(tmp_path: Path) -> None:
    """Each found that nothing was there: both are told that the call has begun, and it is paid once."""
    async with served(tmp_path) as it:
        runs = it.stage.service.runs

        async def count(context: Context, since: float) -> None:
            raise AssertionError("no context is stored")

        answering = Answering(runs, it.rooms.profiles, it.rooms.live, count)
        conversation = Conversation(model=f"direct/{SUB}", parts=("Which?",), key_id=KeyId("key_1"))
        prepared, run_id = await answering.prepare(conversation), RunId(new_id("run"))
        async with anyio.create_task_group() as tries:
            for _ in range(4):
                tries.start_soon(answering.begin, prepared, run_id)
        with anyio.fail_after(60):
            assert await runs.rooms.journal.wait_for_end(run_id, at_most_s=60, unless=lambda: False)
        view = await runs.show(run_id)
        (balance,) = await runs.rooms.ledger.balances([run_account(run_id)])
        assert (balance.spent, balance.held) == (view.spent, 0)
        assert view.spent > 0
