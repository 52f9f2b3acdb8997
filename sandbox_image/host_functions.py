"""The kernel's side of host calls: functions that look local, and travel through the supervisor to the gateway.

Usable from the cell's main thread, from threads and from coroutines. One thread per kernel, started at the first
call, hands replies to whoever waits. A call is tagged with the number of the cell that is open; between cells there
is none, and the call is refused here and once more by the supervisor. What an earlier run left behind is refused here
(`origins`).
"""

import json
import signal
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any

from .frames import FrameDecoder, FrameViolation, encode_frame
from .interrupts import Interrupts
from .origins import Origins
from .protocol import MAX_BATCH_ITEMS, MAX_HOST_CALL_BODY_BYTES, MAX_HOST_CALL_REPLY_BYTES, HostFunction
from .reply_text import ReplyText

_MAX_ARGUMENT_BYTES = MAX_HOST_CALL_BODY_BYTES - (64 << 10)
_encode_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_encode_canonical = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode

Item = dict[str, Any]


def _encode_arguments(arguments: dict[str, Any]) -> bytes:
    return _encode_canonical(arguments).encode("utf-8", "backslashreplace")


class CallChannel:
    """Sends calls and matches replies."""

    def __init__(self, connection: socket.socket, interrupts: Interrupts, origins: Origins | None = None) -> None:
        self._connection = connection
        self._interrupts = interrupts
        self._origins = origins or Origins()
        # Two locks, because a sender may be held up for as long as the supervisor takes no more calls, and the
        # replies that would free it must get through meanwhile.
        self._send_lock = Lock()  # keeps frames whole
        self._waiting_lock = Lock()  # keeps `_waiting` and `_last_id` in step
        self._waiting: dict[int, Future[list[Item]]] = {}
        self._last_id = 0
        self._reader: Thread | None = None
        self.open_cell: int | None = None

    def call(self, function: HostFunction, arguments: dict[str, Any], count: int) -> "Future[list[Item]]":
        """A future of the `count` items of the reply. It always gets a result, never an exception."""
        future: Future[list[Item]] = Future()
        body = _encode_arguments(arguments)
        if len(body) > _MAX_ARGUMENT_BYTES:
            message = f"the call has {len(body)} bytes, the most is {_MAX_ARGUMENT_BYTES}: send smaller pieces"
            future.set_result(_failures("too_long", message, count))
            return future
        if self.open_cell is None:
            future.set_result(_failures("refused", "no cell is running, so nobody would pay for the call", count))
            return future
        if self._origins.of_caller() != self._origins.run:
            message = "it comes from a thread or task of an earlier run, which this run does not pay for: start it anew"
            future.set_result(_failures("refused", message, count))
            return future
        with self._interrupts.held():
            with self._waiting_lock:
                if self._reader is None:
                    reader = Thread(target=self._read_replies, name="host calls", daemon=True)
                    try:
                        reader.start()
                    except RuntimeError as error:
                        message = f"no thread can be had to wait for the reply ({error}): let some threads end"
                        future.set_result(_failures("unavailable", message, count))
                        return future
                    self._reader = reader
                self._last_id += 1
                self._waiting[self._last_id] = future
                header = {"do": "call", "id": self._last_id, "cell": self.open_cell, "function": function}
            with self._send_lock:
                self._connection.sendall(encode_frame(header, body))
        return future

    def _read_replies(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        decoder = FrameDecoder(max_body_bytes=MAX_HOST_CALL_REPLY_BYTES)
        while True:
            try:
                data = self._connection.recv(256 << 10)
                decoder.feed(data)
            except (OSError, FrameViolation):
                data = b""
            if not data:
                break
            while (frame := decoder.next_frame()) is not None:
                with self._waiting_lock:
                    future = self._waiting.pop(frame.header["id"], None)
                if future is not None and future.set_running_or_notify_cancel():
                    try:
                        future.set_result(json.loads(frame.body)["items"])
                    except Exception as error:
                        future.set_exception(RuntimeError(f"the reply could not be read: {type(error).__name__}"))
        with self._waiting_lock:
            for future in self._waiting.values():
                if future.set_running_or_notify_cancel():
                    future.set_result([])


def _failures(kind: str, message: str, count: int) -> list[Item]:
    return [{"ok": False, "value": None, "kind": kind, "message": message} for _ in range(count)]


class HostFunctions:
    """`llm_query` and its family. Arguments are taken as leniently as they can be understood."""

    def __init__(self, channel: CallChannel) -> None:
        self._channel = channel

    def names(self) -> dict[str, Any]:
        """By the names of the contract, as closures: a namespace shows functions, not methods of ours."""

        def llm_query(prompt: Any, model: str | None = None, schema: dict[str, Any] | None = None) -> Any:
            """One plain completion. With a JSON schema: the validated value."""
            return self._wait(self._llm("llm_query", [prompt], model, schema))[0]

        def llm_query_batched(
            prompts: Any, model: str | None = None, schema: dict[str, Any] | None = None
        ) -> list[Any]:
            """Many plain completions at once, in order; a failed item is a `str` with `.ok == False`."""
            return self._wait(self._llm("llm_query_batched", _as_list(prompts), model, schema))

        def rlm_query(prompt: Any, model: str | None = None, *, context: Any = None) -> Any:
            """A child run with its own REPL over `context` (without one: over the prompt)."""
            contexts = None if context is None else [context]
            return self._wait(self._rlm("rlm_query", [prompt], model, contexts))[0]

        def rlm_query_batched(prompts: Any, model: str | None = None, *, contexts: Any = None) -> list[Any]:
            """Many child runs, in order."""
            return self._wait(self._rlm("rlm_query_batched", _as_list(prompts), model, contexts))

        async def allm_query(prompt: Any, model: str | None = None, schema: dict[str, Any] | None = None) -> Any:
            """`llm_query` to be awaited."""
            return (await self._await(self._llm("llm_query", [prompt], model, schema)))[0]

        async def allm_query_batched(
            prompts: Any, model: str | None = None, schema: dict[str, Any] | None = None
        ) -> list[Any]:
            """`llm_query_batched` to be awaited."""
            return await self._await(self._llm("llm_query_batched", _as_list(prompts), model, schema))

        async def arlm_query(prompt: Any, model: str | None = None, *, context: Any = None) -> Any:
            """`rlm_query` to be awaited."""
            contexts = None if context is None else [context]
            return (await self._await(self._rlm("rlm_query", [prompt], model, contexts)))[0]

        async def arlm_query_batched(prompts: Any, model: str | None = None, *, contexts: Any = None) -> list[Any]:
            """`rlm_query_batched` to be awaited."""
            return await self._await(self._rlm("rlm_query_batched", _as_list(prompts), model, contexts))

        def budget() -> Any:
            """What is left: USD, tokens, sub-calls, seconds, turns, depth."""
            (item,) = _exactly(self._channel.call("budget", {}, 1).result(), 1)
            return item["value"] if item["ok"] else _as_reply(item)

        functions = (llm_query, llm_query_batched, rlm_query, rlm_query_batched, allm_query, allm_query_batched)
        return {f.__name__: f for f in (*functions, arlm_query, arlm_query_batched, budget)}

    def _llm(self, function: HostFunction, prompts: list[Any], model: Any, schema: Any) -> "list[Portion]":
        _check_model(model)
        if schema is not None and not isinstance(schema, dict):
            raise TypeError(f"schema must be a JSON schema (a dict) or None, found {type(schema).__name__}")
        texts = _as_prompts(prompts)
        return [
            self._send(function, {"prompts": texts[start:end], "model": model, "schema": schema})
            for start, end in _portions([len(text) for text in texts])
        ]

    def _rlm(self, function: HostFunction, prompts: list[Any], model: Any, contexts: Any) -> "list[Portion]":
        _check_model(model)
        texts = _as_prompts(prompts)
        sizes = [len(text) for text in texts]
        if contexts is not None:
            contexts = _as_list(contexts)
            if len(contexts) != len(texts):
                raise ValueError(f"expected one context for each of {len(texts)} prompts, found {len(contexts)}")
            sizes = [
                size + (len(context) if isinstance(context, str) else len(_encode_text(context)))
                for size, context in zip(sizes, contexts, strict=True)
            ]
        return [
            self._send(
                function,
                {
                    "prompts": texts[start:end],
                    "model": model,
                    "contexts": None if contexts is None else contexts[start:end],
                },
            )
            for start, end in _portions(sizes)
        ]

    def _send(self, function: HostFunction, arguments: dict[str, Any]) -> "Portion":
        count = len(arguments["prompts"])
        return self._channel.call(function, arguments, count), count

    def _wait(self, portions: "list[Portion]") -> list[Any]:
        return [_as_reply(item) for future, count in portions for item in _exactly(future.result(), count)]

    async def _await(self, portions: "list[Portion]") -> list[Any]:
        import asyncio  # noqa: PLC0415  (who awaits has it)

        replies: list[Any] = []
        for future, count in portions:
            replies += [_as_reply(item) for item in _exactly(await asyncio.wrap_future(future), count)]
        return replies


Portion = tuple["Future[list[Item]]", int]


def _portions(sizes: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Cut a batch where one request would be too long; a character may take six bytes at worst, mostly one."""
    start, size = 0, 0
    for index, item in enumerate(sizes):
        if index > start and size + item > _MAX_ARGUMENT_BYTES // 4:
            yield start, index
            start, size = index, 0
        size += item
    if len(sizes) > start:
        yield start, len(sizes)


def _exactly(items: Any, count: int) -> list[Item]:
    if (
        isinstance(items, list)
        and len(items) == count
        and all(isinstance(item, dict) and "ok" in item for item in items)
    ):
        return items
    return _failures("invalid_reply", "the gateway's reply does not fit the call", count)


def _as_reply(item: Item) -> Any:
    if item.get("ok"):
        value = item.get("value")
        return ReplyText(value, ok=True) if isinstance(value, str) else value
    return ReplyText(f"Error: {item.get('message') or item.get('kind') or 'the call failed'}", ok=False)


def _as_list(values: Any) -> list[Any]:
    if isinstance(values, str):
        raise TypeError("expected a list, found one str: use the function without _batched, or pass [text]")
    return list(values)


def _as_prompts(prompts: list[Any]) -> list[str]:
    count = len(prompts)
    if count > MAX_BATCH_ITEMS:
        raise ValueError(f"a batch may have at most {MAX_BATCH_ITEMS} prompts, found {count}: make several batches")
    return [_as_prompt(prompt) for prompt in prompts]


def _as_prompt(prompt: Any) -> str:
    """A list of messages or any JSON becomes its JSON text, anything else its `str`."""
    if isinstance(prompt, str):
        return str.__str__(prompt)
    if isinstance(prompt, dict | list | tuple):
        try:
            return _encode_text(prompt)
        except (TypeError, ValueError, RecursionError):
            pass
    return str(prompt)


def _check_model(model: Any) -> None:
    if model is not None and not isinstance(model, str):
        raise TypeError(f"model must be a str or None, found {type(model).__name__}")
