"""The scripted model of the benchmarks."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.model_server import Connection, encode_reply, reply_to


def test_an_echo_repeats_the_last_message_after_its_latency() -> None:
    """Both sides can tell a right reply from a wrong one, and a late one from an early one."""
    assert reply_to("echo-100", [{"role": "user", "content": "p7"}]) == ("re: p7", 0.1)


@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5])
def test_a_run_of_five_turns_submits_on_its_fifth(turn: int) -> None:
    """Turns are counted by the model's own replies, whatever else the two sides put into a conversation."""
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": ""}]
    for _ in range(turn - 1):
        messages += [{"role": "assistant", "content": ""}, {"role": "user", "content": ""}]
    text, delay_s = reply_to("turns-5", messages)
    assert ('answer["ready"] = True' in text) == (turn == 5)
    assert text.startswith("```repl\n")
    assert text.endswith("\n```")
    assert delay_s == 0


def test_a_batch_counts_wrong_replies_and_times_itself() -> None:
    """The cell is valid Python, and what it submits shows a reply that went missing or to the wrong place."""
    text, _ = reply_to("batch-3", [])
    code = text.removeprefix("```repl\n").removesuffix("\n```")
    for replies, wrong in ((["re: p0", "re: p1", "re: p2"], "0"), (["re: p1", "re: p0", "re: p2"], "2"), ([], "3")):
        answer: dict[str, Any] = {}
        exec(code, {"llm_query_batched": lambda _, given=replies: given, "answer": answer, "context": "1234"})
        assert answer["content"].split()[1:] == [wrong, "4"]
        assert answer["ready"]


def test_single_calls_count_themselves() -> None:
    """The cell is valid Python, and says how many calls ended and how many of them were wrong."""
    text, _ = reply_to("calls-0", [])
    answer: dict[str, Any] = {}
    exec(text.removeprefix("```repl\n").removesuffix("\n```"), {"answer": answer})
    assert answer["content"].split()[1:] == ["0", "0"]
    assert answer["ready"]


@pytest.mark.parametrize("name", ["", "echo", "echo-", "echo--1", "echo-1e9", "other-5", "echo-5\n", "turns-1234567"])
def test_a_name_that_it_does_not_play_is_refused(name: str) -> None:
    """A spelling error is not measured."""
    with pytest.raises(ValueError, match="no script is named"):
        reply_to(name, [{"role": "user", "content": "x"}])


@given(st.text(max_size=200), st.booleans())
def test_a_reply_says_the_same_streamed_or_whole(text: str, stream: bool) -> None:
    """Both forms carry the text and the usage that the protocol promises."""
    head, _, body = encode_reply(text, stream=stream, prompt_tokens=3).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    if stream:
        events = [line[6:] for line in body.split(b"\r\n") if line.startswith(b"data: ")]
        assert events.pop().strip() == b"[DONE]"
        documents = [json.loads(event) for event in events]
        said = "".join(choice["delta"].get("content", "") for one in documents for choice in one["choices"])
        usage = documents[-1]["usage"]
    else:
        document = json.loads(body)
        said, usage = document["choices"][0]["message"]["content"], document["usage"]
    assert said == text
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


class Sent(asyncio.Transport):
    """Where a connection's replies end up."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)

    def is_closing(self) -> bool:
        return False


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.data())
def test_requests_are_understood_however_they_are_cut(prompts: list[str], data: st.DataObject) -> None:
    """TCP may deliver the requests of a connection in any pieces."""
    wire = b""
    expected = b""
    for prompt in prompts:
        body = json.dumps({"model": "echo-0", "messages": [{"role": "user", "content": prompt}]}).encode()
        wire += b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        expected += encode_reply(f"re: {prompt}", stream=False, prompt_tokens=1 + len(body) // 4)
    loop = asyncio.new_event_loop()
    try:
        connection, sent = Connection(loop), Sent()
        connection.connection_made(sent)
        while wire:
            size = data.draw(st.integers(min_value=1, max_value=len(wire)))
            connection.data_received(wire[:size])
            wire = wire[size:]
    finally:
        loop.close()
    assert sent.data == expected
