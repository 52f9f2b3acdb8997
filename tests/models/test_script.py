"""The names of scripted models."""

import threading
from contextlib import suppress

import anyio
import anyio.from_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loop.values import CallOutcome, Message
from service.models.port import ModelCallFailed, ModelRequest
from service.models.scripted.adapter import MOST_COUNTED_NAMES, ScriptedAdapter
from service.models.scripted.script import Script, ScriptUnknown, Strategy, parse_script
from tests.models.contract import request


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("root", Script(strategy=Strategy.ROOT)),
        ("grep?latency_ms=100", Script(strategy=Strategy.GREP, latency_ms=100)),
        (
            "sub?fail_every=7&fail_with=rate_limited",
            Script(strategy=Strategy.SUB, fail_every=7, fail_with=CallOutcome.RATE_LIMITED),
        ),
        (
            "map?window_tokens=8000&max_output_tokens=100",
            Script(strategy=Strategy.MAP, window_tokens=8000, max_output_tokens=100),
        ),
    ],
)
def test_options_are_read(text: str, script: Script) -> None:
    """A name says which strategy, how slow, how faulty and how small a model is."""
    assert parse_script(text) == script


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "one of root, peek"),
        ("rot", "Did you mean scripted/root"),
        ("root?", None),
        ("root?latency_ms", "whole number from 0 to 600000"),
        ("root?latency_ms=-1", "whole number"),
        ("root?latency_ms=600001", "whole number"),
        ("root?latency_ms=1e3", "whole number"),
        ("root?latency_ms=٣", "whole number"),
        ("root?fail_every=0", "whole number from 1"),
        ("root?fail_with=budget", "expected fail_with to be one of"),
        ("root?colour=blue", "expected an option of latency_ms"),
        ("root?latency_ms=1&", "expected an option"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, complaint: str | None) -> None:
    """A wrong strategy, option or value is told with what was expected."""
    if complaint is None:
        assert parse_script(text) == Script(strategy=Strategy.ROOT)
        return
    with pytest.raises(ScriptUnknown, match=complaint):
        parse_script(text)


@given(st.text(max_size=50))
def test_reading_a_name_refuses_or_reads(text: str) -> None:
    """No name does anything else than be read or be refused."""
    with suppress(ScriptUnknown):
        assert parse_script(text).strategy in Strategy


@pytest.mark.anyio
async def test_every_nth_call_fails() -> None:
    """Failures come at fixed places, counted by name."""
    adapter = ScriptedAdapter(concurrency=1)
    outcomes = []
    for _ in range(6):
        try:
            await adapter.complete(request(model="sub?fail_every=3&fail_with=timed_out"))
            outcomes.append("ok")
        except ModelCallFailed as failure:
            outcomes.append(failure.outcome)
    assert outcomes == ["ok", "ok", "timed_out", "ok", "ok", "timed_out"]


@pytest.mark.anyio
async def test_a_small_window_overflows() -> None:
    """A prompt over the window is too long, and costs nothing."""
    adapter = ScriptedAdapter(concurrency=1)
    with pytest.raises(ModelCallFailed) as failed:
        await adapter.complete(request("x" * 4100, model="sub?window_tokens=1000"))
    assert failed.value.outcome is CallOutcome.TOO_LONG
    assert not failed.value.may_be_billed


@pytest.mark.anyio
async def test_usage_is_bytes_by_four() -> None:
    """Token counts are exact and known beforehand, so that tests can demand cents."""
    adapter = ScriptedAdapter(concurrency=1)
    messages = (Message(role="system", content="abcde"), Message(role="user", content="Question: x?\n\nText:\nyes 5"))
    reply = await adapter.complete(ModelRequest(model="sub", messages=messages, max_output_tokens=10))
    assert reply.usage is not None
    assert reply.usage.input_tokens == 2 + 7
    assert reply.usage.output_tokens == -(-len(reply.text) // 4)


@pytest.mark.anyio
async def test_counting_is_bounded() -> None:
    """However many names are called, only so many are remembered."""
    adapter = ScriptedAdapter(concurrency=1)
    for number in range(MOST_COUNTED_NAMES + 10):
        await adapter.complete(request("hi", model=f"sub?window_tokens={1000 + number}"))
    assert len(adapter._calls) == MOST_COUNTED_NAMES


@pytest.mark.anyio
async def test_the_event_loop_goes_on_while_a_reply_is_thought_of() -> None:
    """Whatever a tenant has a scripted model read, others are served meanwhile."""
    began, went_on = anyio.Event(), threading.Event()

    class Watched(dict[str, str]):
        """A schema that is looked into no further until the event loop has had its turn."""

        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            anyio.from_thread.run_sync(began.set)
            assert went_on.wait(timeout=60)
            return super().get(key, default)

    async with anyio.create_task_group() as tasks:

        async def others() -> None:
            await began.wait()
            went_on.set()

        tasks.start_soon(others)
        asked = ModelRequest(
            model="sub",
            messages=(Message(role="user", content="Question: how many?\n\nText:\nyes"),),
            max_output_tokens=10,
            schema=Watched(type="integer"),
        )
        reply = await ScriptedAdapter(concurrency=1).complete(asked)
    assert reply.text == "1"
