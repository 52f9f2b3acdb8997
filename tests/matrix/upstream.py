"""The model provider of the matrix: OpenAI's chat completions on loopback, which counts what it is asked.

Each call costs the same (`NANO_USD_PER_CALL`), so that the ledger can be compared with the count.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 1_000, 100
INPUT_USD_PER_MILLION, OUTPUT_USD_PER_MILLION = 1, 10
NANO_USD_PER_CALL = (INPUT_TOKENS * INPUT_USD_PER_MILLION + OUTPUT_TOKENS * OUTPUT_USD_PER_MILLION) * 1_000
SLOW_S = 4.0

_MARKER = re.compile(r"marker-[0-9a-f]{32}")
_NUMBER = re.compile(r"magic number is (\d+)")
_LOOK = """```repl
import re
found = re.search(r"magic number is (\\d+)", context).group(1)
FINAL(found)
```"""
_SUBMIT = """```repl
FINAL({value})
```"""


def reply_to(request: dict[str, Any]) -> str:
    """What it says: the number that it sees. As root LM it looks into the context for one that it does not see.

    A root LM's reply is one cell that submits, so that a run is one call.
    """
    text = "\n".join(_text(message["content"]) for message in request["messages"])
    found = _NUMBER.search(text)
    is_root, is_json = "```repl" in text, '"number"' in text or "response_format" in request
    if is_root and found is None:
        return _LOOK
    number = found.group(1) if found else "0"
    said = json.dumps({"number": int(number)}) if is_json else number
    return _SUBMIT.format(value=said if is_json else repr(said)) if is_root else said


class Upstream:
    """Calls that were made, in all and by the marker in them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._by_marker: Counter[str] = Counter()
        self.port = 0

    @property
    def calls(self) -> int:
        with self._lock:
            return self._calls

    def calls_with(self, marker: str) -> int:
        with self._lock:
            return self._by_marker[marker]

    def count(self, body: str) -> None:
        with self._lock:
            self._calls += 1
            self._by_marker.update(set(_MARKER.findall(body)))


@contextmanager
def open_upstream() -> Iterator[Upstream]:
    """A provider that answers for the time of the block."""
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            upstream.count(body)
            request = json.loads(body)
            if "slowly, marker-" in body:
                time.sleep(SLOW_S)
            payload = _encode(reply_to(request), stream=bool(request.get("stream")))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if request.get("stream") else "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the library gives it
            """Nothing: the count is what is looked at."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        upstream.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield upstream
        finally:
            server.shutdown()
            thread.join()


def _text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _encode(text: str, *, stream: bool) -> bytes:
    usage = {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    envelope: dict[str, Any] = {"id": "m", "created": 0, "model": "matrix"}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return json.dumps(envelope | {"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    halves = [text[: len(text) // 2], text[len(text) // 2 :]]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": half}, "finish_reason": None}]} for half in halves
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = [envelope | {"object": "chat.completion.chunk"} | chunk for chunk in chunks]
    events.append(envelope | {"object": "chat.completion.chunk", "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
