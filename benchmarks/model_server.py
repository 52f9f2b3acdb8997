"""The language model of the benchmarks: OpenAI's chat completions on loopback, scripted, in a process of its own.

Both sides call it, so it is lean: raw asyncio, standard library, one write a reply. What it plays is the model's name:

    echo-MS          after MS milliseconds: "re: " and the last message
    turns-N          N - 1 turns of one cell each that looks at the context, then one that submits
    calls-S          one cell that makes single sub-calls on so many threads for S seconds and submits what it saw
    batch-N          one cell that makes a batch of N sub-calls, times it from inside and submits what it saw

    python -m benchmarks.model_server        # prints its port
"""

import asyncio
import json
import re
import sys
from typing import Any

_NAME = re.compile(r"(echo|turns|batch|calls)-(\d{1,6})\Z")
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)

IN_FLIGHT = 16
"""Threads of the play `calls`."""

BATCH = """```repl
import time
prompts = ["p%d" % i for i in range({items})]
started = time.perf_counter()
replies = llm_query_batched(prompts)
seconds = time.perf_counter() - started
wrong = sum(str(reply) != "re: " + prompt for prompt, reply in zip(prompts, replies))
answer["content"] = "%.6f %d %d" % (seconds, wrong + abs(len(replies) - len(prompts)), len(context))
answer["ready"] = True
```"""
CALLS = """```repl
import threading, time
counted = []
started = time.perf_counter()
def keep_calling(number):
    asked = 0
    while time.perf_counter() < started + {seconds}:
        prompt = "p%d-%d" % (number, asked)
        counted.append(str(llm_query(prompt)) == "re: " + prompt)
        asked += 1
threads = [threading.Thread(target=keep_calling, args=(number,)) for number in range({in_flight})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
answer["content"] = "%.6f %d %d" % (time.perf_counter() - started, len(counted), counted.count(False))
answer["ready"] = True
```"""
LOOK = """```repl
seen_{turn} = context[:100].split()
print({turn}, len(context), len(seen_{turn}))
```"""
SUBMIT = """```repl
answer["content"] = "%d words in %d turns" % (len(seen_1), {turn})
answer["ready"] = True
```"""


def reply_to(model: str, messages: list[dict[str, Any]]) -> tuple[str, float]:
    """What the model says, and after how many seconds. Raises `ValueError` for a name that it does not play."""
    found = _NAME.match(model)
    if found is None:
        raise ValueError(f"no script is named {model!r}; expected echo-MS, turns-N, batch-N or calls-S")
    kind, number = found.group(1), int(found.group(2))
    if kind == "echo":
        return f"re: {messages[-1]['content']}", number / 1000
    if kind == "batch":
        return BATCH.format(items=number), 0.0
    if kind == "calls":
        return CALLS.format(seconds=number, in_flight=IN_FLIGHT), 0.0
    turn = 1 + sum(message["role"] == "assistant" for message in messages)
    return (SUBMIT if turn >= number else LOOK).format(turn=turn), 0.0


def encode_reply(text: str, *, stream: bool, prompt_tokens: int) -> bytes:
    """The whole HTTP response: as a stream of events in chunks, or as one document."""
    tokens = 1 + len(text) // 4
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    if not stream:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps(_envelope("chat.completion", [choice]) | {"usage": usage}).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    events: list[dict[str, Any]] = [
        _envelope("chat.completion.chunk", [_delta({"role": "assistant", "content": text}, None)]),
        _envelope("chat.completion.chunk", [_delta({}, "stop")]),
        _envelope("chat.completion.chunk", []) | {"usage": usage},
    ]
    pieces = [b"data: %s\n\n" % json.dumps(event).encode() for event in events] + [b"data: [DONE]\n\n"]
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return b"".join([head, *chunks, b"0\r\n\r\n"])


def _envelope(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "b", "object": kind, "created": 0, "model": "scripted", "choices": choices}


def _delta(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


class Connection(asyncio.Protocol):
    """One client's keep-alive connection; clients of this protocol do not pipeline."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._input = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a TCP transport writes"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._input += data
        while (end := self._input.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._input, 0, end)
            size = int(length.group(1)) if length else 0
            if len(self._input) < end + 4 + size:
                return
            body = bytes(self._input[end + 4 : end + 4 + size])
            del self._input[: end + 4 + size]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        request = json.loads(body)
        text, delay_s = reply_to(request["model"], request["messages"])
        reply = encode_reply(text, stream=bool(request.get("stream")), prompt_tokens=1 + len(body) // 4)
        if delay_s:
            self._loop.call_later(delay_s, self._send, reply)
        else:
            self._send(reply)

    def _send(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Whoever started this holds the other end of stdin: it ends with them, however they end.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
