"""The supervisor's side of host calls: checks what a kernel asks, calls the gateway, sends the reply back.

A call is accepted only while the cell it was made in is open, so it is always charged to the run whose cell is active.
Its key (cell, function, digest of the arguments, ordinal among equals) is made here, not in the kernel; a call that
fails on the way is repeated under the same key, which the gateway answers once.
"""

import hashlib
import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

from .frames import Frame
from .http_stream import BodyTooLarge, BufferedStream, Head, StreamEnded, StreamViolation, encode_json
from .protocol import (
    MAX_BATCH_ITEMS,
    MAX_HOST_CALL_REPLY_BYTES,
    MAX_HOST_CALL_VALUES,
    MAX_SCHEMA_CHARS,
    HostFunction,
    count_values,
)

MAX_PARALLEL_CALLS = 64
MAX_CALLS_HELD = 512
MAX_BYTES_HELD = 192 << 20
_BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0)
_MIN_TIMEOUT_S = 5.0
_FULL_QUEUE_PAUSE_S = 0.01
_HOST_FUNCTIONS = frozenset(get_args(HostFunction))
_KIND_OF_STATUS = {
    401: "refused",
    402: "budget",
    403: "refused",
    408: "timed_out",
    413: "too_long",
    429: "rate_limited",
}


class CallRefused(Exception):
    """What the kernel asked is not a host call that may be made. `kind` as in `HostCallItem`.

    Answered with one item, however many were asked for: what is refused here was made up by the cell's code, which must
    not have more kept for it than it sent.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCell:
    """The cell that is running: `number` is the tag its calls carry, `deadline` is monotonic."""

    cell_id: str
    number: int
    deadline: float
    begin_wait: Callable[[], None]
    end_wait: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One accepted call. `body` is the whole request for the gateway."""

    number: int
    cell: OpenCell
    body: bytes
    grant: str
    """Of the moment it was made in: a call that is repeated is never charged to a later run."""
    count: int
    answer: Callable[[dict[str, Any], bytes], None]
    abandoned: Callable[[], bool]

    @property
    def size_bytes(self) -> int:
        return len(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCall:
    """One that is answered without the gateway. It waits in the same queue, because sending to a kernel that
    does not read must never hold up the thread that watches over the cell."""

    number: int
    reply: bytes
    answer: Callable[[dict[str, Any], bytes], None]

    @property
    def size_bytes(self) -> int:
        return len(self.reply)


class HostCalls:
    """Calls in flight, on at most `MAX_PARALLEL_CALLS` threads that are started as they are needed.

    The first is there before any kernel is, so that a call is served even where code in the sandbox has left room for
    no other thread; it only waits longer then.
    """

    def __init__(self, gateway_socket: str) -> None:
        self._gateway_socket = gateway_socket
        self._lock = threading.Lock()  # keeps the queue, the counters and the idle connections of one moment
        self._wanted = threading.Condition(self._lock)
        self._queue: deque[Call | RefusedCall] = deque()
        self._threads = 0
        self._idle_threads = 0
        self._held = 0
        self._held_bytes = 0
        self._idle_connections: list[BufferedStream] = []
        self._ordinals: Counter[tuple[str, str]] = Counter()
        self._busy_connections: set[socket.socket] = set()
        self._cell: OpenCell | None = None
        self._grant = ""
        self._epoch = 0
        with self._lock:
            self._start_thread()

    @property
    def in_flight(self) -> int:
        return self._held

    def replace_grant(self, grant: str) -> None:
        """Calls that a kernel makes from now on are made under it."""
        self._grant = grant

    def open_cell(self, cell: OpenCell) -> None:
        self._cell = cell
        self._ordinals = Counter()

    def close_cell(self) -> None:
        """Calls that are in flight come to their end; new ones are refused."""
        self._cell = None

    def abandon(self) -> None:
        """The kernel that asked is gone: queued calls are dropped and those in flight broken off."""
        with self._lock:
            self._epoch += 1
            for call in self._queue:
                self._held -= 1
                self._held_bytes -= call.size_bytes
            self._queue.clear()
            for connection in self._busy_connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def can_take(self) -> bool:
        """Whether the kernel's next call should be read now. If not, the kernel waits in its own memory."""
        return self._held < MAX_CALLS_HELD and self._held_bytes < MAX_BYTES_HELD

    def take(self, frame: Frame, answer: Callable[[dict[str, Any], bytes], None]) -> None:
        """Accept or refuse one call. `answer` sends the reply and may be called on another thread."""
        number = frame.header.get("id")
        if type(number) is not int:
            return  # nobody could be answered
        call: Call | RefusedCall
        try:
            call = self._accept(frame, number, answer)
            call.cell.begin_wait()
        except CallRefused as refusal:
            reply = _failures(refusal.kind, str(refusal), 1)
            call = RefusedCall(number=number, reply=reply, answer=answer)
        with self._lock:
            self._held += 1
            self._held_bytes += call.size_bytes
            self._queue.append(call)
            self._wanted.notify()
            if len(self._queue) > self._idle_threads and self._threads < MAX_PARALLEL_CALLS:
                with suppress(RuntimeError, MemoryError):  # no room for one more: the call waits for one of the others
                    self._start_thread()

    def _start_thread(self) -> None:
        """The caller holds the lock."""
        threading.Thread(target=self._work, name="host call", daemon=True).start()
        self._threads += 1

    def _accept(self, frame: Frame, number: int, answer: Callable[[dict[str, Any], bytes], None]) -> Call:
        cell, function = self._cell, frame.header.get("function")
        if cell is None or frame.header.get("cell") != cell.number:
            raise CallRefused("refused", "the cell that made the call is not running any more")
        if not isinstance(function, str) or function not in _HOST_FUNCTIONS:
            raise CallRefused("refused", "there is no such host function")
        arguments = _parse_arguments(frame.body)
        count = _check_arguments(function, arguments)
        canonical = _canonical(arguments).encode("utf-8", "backslashreplace")
        digest = hashlib.sha256(canonical).hexdigest()
        ordinal = self._ordinals[function, digest]
        self._ordinals[function, digest] += 1
        key = {"cell_id": cell.cell_id, "function": function, "ordinal": ordinal}
        body = encode_json(key)[:-1] + b',"arguments":' + canonical + b"}"
        epoch = self._epoch
        return Call(
            number=number,
            cell=cell,
            body=body,
            grant=self._grant,
            count=count,
            answer=answer,
            abandoned=lambda: self._epoch != epoch,
        )

    def _work(self) -> None:
        while True:
            with self._wanted:
                self._idle_threads += 1
                while not self._queue:
                    self._wanted.wait()
                self._idle_threads -= 1
                call = self._queue.popleft()
            items = call.reply if isinstance(call, RefusedCall) else self._perform_to_the_end(call)
            self._send_back(call, items)

    def _send_back(self, call: Call | RefusedCall, items: bytes) -> None:
        """For as long as the kernel does not read it, the reply counts as what is held for it."""
        header = {"did": "call", "id": call.number}
        with self._lock:
            self._held_bytes += len(items)
        try:
            call.answer(header, items)
        except MemoryError:  # before anything was sent: a frame is made first
            with suppress(MemoryError):
                call.answer(header, _NO_ROOM_FOR_REPLY)
        finally:
            with self._lock:
                self._held -= 1
                self._held_bytes -= call.size_bytes + len(items)

    def _perform_to_the_end(self, call: Call) -> bytes:
        try:
            return self._perform(call)
        except BaseException:  # a thread that dies would leave a kernel waiting for ever
            return _failures("unavailable", "the call failed inside the sandbox", call.count)
        finally:
            call.cell.end_wait()

    def _perform(self, call: Call) -> bytes:
        """The reply's body. Failures are items of it, never exceptions."""
        kind, problem = "unavailable", "the gateway cannot be reached"
        for pause_s in (*_BACKOFF_S, None):
            try:
                head, body = self._exchange(call)
            except BodyTooLarge:
                return _failures("too_long", "the gateway's reply is above the cap", call.count)
            except TimeoutError:
                kind, problem = "timed_out", "no reply before the cell's time was over"
            except (OSError, StreamEnded, StreamViolation) as error:
                kind, problem = "unavailable", f"the gateway cannot be reached ({type(error).__name__})"
            else:
                status = head.start[1]
                if status == "200":
                    return body
                if status not in ("500", "502", "503", "504"):
                    refused_as = _KIND_OF_STATUS.get(int(status) if status.isdigit() else 0, "refused")
                    return _failures(refused_as, _message_of(body, status), call.count)
                kind, problem = "unavailable", _message_of(body, status)
            if pause_s is None or call.abandoned() or time.monotonic() + pause_s > call.cell.deadline:
                break
            time.sleep(pause_s)
        return _failures(kind, problem, call.count)

    def _exchange(self, call: Call) -> tuple[Head, bytes]:
        stream = self._idle_stream()
        if stream is not None:
            try:
                return self._exchange_on(stream, call)
            except (StreamEnded, ConnectionError):
                if call.abandoned():
                    raise
                # It had been closed while it was idle: not a failure of this call.
        return self._exchange_on(self._connect(), call)

    def _exchange_on(self, stream: BufferedStream, call: Call) -> tuple[Head, bytes]:
        head_lines = (
            "POST /host-calls HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {call.grant}",
            "content-type: application/json",
            "accept-encoding: identity",
            f"content-length: {len(call.body)}",
        )
        request = ("\r\n".join(head_lines) + "\r\n\r\n").encode("ascii")
        with self._lock:
            self._busy_connections.add(stream.connection)  # from here on `abandon` breaks it off
        try:
            if call.abandoned():
                raise StreamEnded("the kernel that asked is gone")
            stream.connection.settimeout(max(_MIN_TIMEOUT_S, call.cell.deadline - time.monotonic()))
            stream.connection.sendall(request + call.body)
            head = stream.read_head()
            if head.headers.get("content-encoding", "identity") != "identity":
                raise StreamViolation("expected identity encoding")
            body = stream.read_body(head, MAX_HOST_CALL_REPLY_BYTES)
        except BaseException:
            stream.connection.close()
            raise
        finally:
            with self._lock:
                self._busy_connections.discard(stream.connection)
        if head.headers.get("connection", "").lower() == "close":
            stream.connection.close()
        else:
            with self._lock:
                self._idle_connections.append(stream)
        return head, body

    def _idle_stream(self) -> BufferedStream | None:
        with self._lock:
            return self._idle_connections.pop() if self._idle_connections else None

    def _connect(self) -> BufferedStream:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        patient_until = time.monotonic() + _MIN_TIMEOUT_S
        try:
            connection.settimeout(_MIN_TIMEOUT_S)
            while True:
                try:
                    connection.connect(self._gateway_socket)
                    break
                except BlockingIOError:  # its queue is full, of others' connections perhaps: it does not wait for room
                    if time.monotonic() >= patient_until:
                        raise
                    time.sleep(_FULL_QUEUE_PAUSE_S)
        except BaseException:
            connection.close()
            raise
        return BufferedStream(connection)


def _parse_arguments(body: bytes) -> dict[str, Any]:
    # 64 MB of brackets would become gigabytes of empty lists, so values are counted before any is made.
    if count_values(body, MAX_HOST_CALL_VALUES) > MAX_HOST_CALL_VALUES:
        message = f"the arguments have more than {MAX_HOST_CALL_VALUES} values: pass what is large as a text"
        raise CallRefused("too_long", message)
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError):
        raise CallRefused("refused", "the arguments are not JSON") from None
    if not isinstance(arguments, dict):
        raise CallRefused("refused", "the arguments are not an object")
    return arguments


def _check_arguments(function: str, arguments: dict[str, Any]) -> int:
    """The number of items that the reply will have. Raises `CallRefused`."""
    if function == "budget":
        if arguments:
            raise CallRefused("refused", "budget takes no arguments")
        return 1
    other = "schema" if function.startswith("llm") else "contexts"
    if arguments.keys() != {"prompts", "model", other}:
        raise CallRefused("refused", f"expected the arguments prompts, model and {other}")
    prompts, model, extra = arguments["prompts"], arguments["model"], arguments[other]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise CallRefused("refused", "prompts must be a list of texts")
    count = len(prompts)
    if count > (MAX_BATCH_ITEMS if function.endswith("_batched") else 1):
        raise CallRefused("refused", "too many prompts for one call")
    if not (model is None or isinstance(model, str)):
        raise CallRefused("refused", "model must be a text or null")
    if extra is not None and not isinstance(extra, dict if other == "schema" else list):
        raise CallRefused("refused", f"{other} is of the wrong type")
    if isinstance(extra, dict) and len(_canonical(extra)) > MAX_SCHEMA_CHARS:
        raise CallRefused("refused", f"the JSON schema is larger than {MAX_SCHEMA_CHARS} characters")
    if isinstance(extra, list) and len(extra) != count:
        raise CallRefused("refused", "expected one context for each prompt")
    return count


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise CallRefused("refused", "the arguments are not plain JSON") from None


def _failures(kind: str, message: str, count: int) -> bytes:
    item = encode_json({"ok": False, "value": None, "kind": kind, "message": message[:500]})
    return b'{"items":[' + b",".join([item] * count) + b"]}"


_NO_ROOM_FOR_REPLY = _failures("unavailable", "the sandbox has no memory left for the reply", 1)


def _message_of(body: bytes, status: str) -> str:
    """What an error body says: ours or problem+json."""
    try:
        parsed = json.loads(body[: 64 << 10])
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        for name in ("message", "detail", "title"):
            if isinstance(parsed.get(name), str):
                return str(parsed[name])
    return f"the gateway answered {status}"
