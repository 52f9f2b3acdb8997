"""A client of HTTP APIs in a bare process of its own, so that nothing of what a client costs is in the figures of the
side that answers. Standard library only. Run as a module; asked as `worker_loop` says.
"""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Coroutine
from typing import Any

from benchmarks.followers import Followers
from benchmarks.worker_loop import serve

_PATIENCE_S = 600.0
_MODEL_REPLY_TOKENS = 8192


class _Loop:
    """An event loop on a thread of its own: what is begun on it goes on between two operations."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(_PATIENCE_S)


_loop = _Loop()
_followers: list[Followers] = []


def chat(port: int, key: str, model: str, in_flight: int, window_s: float) -> dict[str, Any]:
    """Chat completions of a model that echoes, so many in flight, as many as end within the window: how many, of them
    wrong, and the seconds until the last."""
    return dict(_loop.run(_chat(port, key, model, in_flight, window_s)))


def run(port: int, key: str, asked: dict[str, Any], context: str, answer: str) -> list[float]:
    """A whole run over REST: the text stored, the run submitted and waited for, its answer read. Raises if it is not
    the expected one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    started = time.perf_counter()
    stored = _posted(connection, key, "/v1/contexts", {"name": "context", "text": context})
    submission = asked | {"contexts": [{"context_id": stored["context_id"]}]}
    done = _posted(connection, key, "/v1/runs", submission, prefer="wait=60")
    seconds = time.perf_counter() - started
    connection.close()
    if done["stop_reason"] != "answered" or done["answer"]["text"] != answer:
        raise ValueError(f"expected the answer {answer!r}, found {done}")
    return [seconds]


def cells(port: int, key: str, session_id: str, count: int) -> list[float]:
    """Trivial cells in a session over REST, one after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    seconds = []
    for number in range(count):
        started = time.perf_counter()
        shown = _posted(connection, key, f"/v1/sessions/{session_id}/cells", {"code": f"print({number})"})
        seconds.append(time.perf_counter() - started)
        if shown["stdout"]["head"].strip() != str(number):
            raise ValueError(f"expected a cell to print {number}, found {shown}")
    connection.close()
    return seconds


def upload(port: int, key: str, path: str, size_bytes: int) -> list[float]:
    """A file as a context, in one request. Raises unless all of it was stored."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S, blocksize=1 << 20)
    headers = _headers(key) | {"content-type": "text/plain", "content-length": str(size_bytes)}
    with open(path, "rb") as file:
        started = time.perf_counter()
        connection.request("POST", "/v1/contexts?name=upload", body=file, headers=headers)
        stored = _answer(connection)
        seconds = time.perf_counter() - started
    connection.close()
    if stored["size_bytes"] != size_bytes:
        raise ValueError(f"expected {size_bytes} bytes to be stored, found {stored}")
    return [seconds]


def follow(port: int, key: str, run_id: str, count: int) -> None:
    """Follow a run so many times, each on a connection of its own, until `unfollow`; all are told of its first event
    when this returns."""
    followers = Followers(port, key, run_id)
    _followers.append(followers)
    _loop.run(followers.open(count))


def heard(event: str) -> list[float]:
    """When each of those who follow was told of the event, by `time.time`; waits until the last was."""
    return list(_loop.run(_followers[-1].heard(event)))


def unfollow() -> None:
    while _followers:
        _loop.run(_followers.pop().close())


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _posted(
    connection: http.client.HTTPConnection, key: str, path: str, body: dict[str, Any], **more: str
) -> dict[str, Any]:
    headers = _headers(key) | {"content-type": "application/json"} | more
    connection.request("POST", path, body=json.dumps(body).encode(), headers=headers)
    return _answer(connection)


def _answer(connection: http.client.HTTPConnection) -> dict[str, Any]:
    response = connection.getresponse()
    body = response.read()
    if response.status not in (200, 201):
        raise ValueError(f"expected success, found {response.status}: {body[:500]!r}")
    return dict(json.loads(body))


async def _chat(port: int, key: str, model: str, in_flight: int, window_s: float) -> dict[str, Any]:
    started = time.perf_counter()
    ends = started + window_s
    counted: list[bool] = []

    async def keep_asking(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = 0
        while time.perf_counter() < ends:
            prompt = f"p{number}-{asked}"
            counted.append(await _completion(reader, writer, key, model, prompt) == f"re: {prompt}")
            asked += 1
        writer.close()

    await asyncio.gather(*(keep_asking(number) for number in range(in_flight)))
    return {"calls": len(counted), "wrong": counted.count(False), "seconds": time.perf_counter() - started}


async def _completion(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str, model: str, prompt: str
) -> str:
    """One completion on a connection that is kept. Whoever answers says how long the body is."""
    message = {"role": "user", "content": prompt}
    body = json.dumps({"model": model, "messages": [message], "max_tokens": _MODEL_REPLY_TOKENS}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    length = next(int(line.removeprefix(b"content-length:")) for line in lines if line.startswith(b"content-length:"))
    reply = await reader.readexactly(length)
    if b" 200 " not in lines[0]:
        raise ValueError(f"expected success, found {lines[0]!r}: {reply[:500]!r}")
    return str(json.loads(reply)["choices"][0]["message"]["content"])


if __name__ == "__main__":
    serve({each.__name__: each for each in (chat, run, cells, upload, follow, heard, unfollow)})
