"""The first process: serves HTTP on streams that it dialled itself, and never runs a cell.

Each lane is a thread that serves one stream after another. When a stream closes while its request is at work, another
thread takes over the lane at once, so a host that comes back finds an idle stream on both lanes and asks for the
cell by its id. The main thread only watches: the zygote, the kernel while it is idle, and whether anybody is still
there.
"""

import os
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from .decoding import NotThatShape, decode_value, parse_json
from .dialling import Dialler, HostGone, Lane, PrefaceRefused
from .files import FileRefused, WorkingFiles
from .hang_up import HangUp
from .http_stream import (
    BodyTooLarge,
    BufferedStream,
    Head,
    StreamEnded,
    StreamViolation,
    encode_json,
    encode_response,
    encode_response_head,
)
from .operations import KernelOperations
from .protocol import (
    DIGEST_HEADER,
    FILE_PIECE_BYTES,
    GENERATION_HEADER,
    MARK_HEADER,
    MAX_CONTROL_BODY_BYTES,
    SIZE_HEADER,
    TYPE_HEADER,
    BindRequest,
    CellRequest,
    ClaimRequest,
    DeleteFileRequest,
    ErrorCode,
    ErrorReply,
    GrantRequest,
    InterruptRequest,
    PutFileRequest,
)
from .request_checks import Refused
from .zygote import Zygote, ZygoteLost

EXIT_FAILED = 70
EXIT_HOST_GONE = 75
EXIT_ZYGOTE_LOST = 76
EXIT_PREFACE_REFUSED = 78

_LANES: tuple[Lane, ...] = ("cells", "control")
_WATCH_INTERVAL_S = 0.5
_SEND_TIMEOUT_S = 60
_MAX_VALUE_BYTES = 1 << 40

STATUS_OF = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.NOT_CLAIMED: 409,
    ErrorCode.ALREADY_CLAIMED: 409,
    ErrorCode.STALE_GENERATION: 409,
    ErrorCode.BUSY: 409,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNSERIALISABLE: 422,
    ErrorCode.KERNEL_LOST: 503,
    ErrorCode.NOT_A_FILE: 409,
    ErrorCode.CHANGED: 409,
    ErrorCode.NO_ROOM: 413,
    ErrorCode.INTERNAL: 500,
}


class Supervisor:
    """Serves the operations on every stream that the dialler opens."""

    def __init__(self, operations: KernelOperations, files: WorkingFiles, dialler: Dialler, zygote: Zygote) -> None:
        self._operations = operations
        self._files = files
        self._dialler = dialler
        self._zygote = zygote

    def run(self) -> int:
        """Until the host or the zygote is gone; returns the exit code. The caller has blocked SIGCHLD, and so do the
        lanes: that the zygote has ended is for this thread to hear."""
        for lane in _LANES:
            self._start_lane(lane)
        child_ended = _hear_of_children()
        while True:
            if select.select([child_ended], [], [], _WATCH_INTERVAL_S)[0]:
                child_ended.recv(4096)
            if self._reap_and_find_zygote():
                return EXIT_ZYGOTE_LOST
            try:
                self._operations.look_at_idle_kernel()
                self._dialler.check_patience()
            except HostGone:
                return EXIT_HOST_GONE
            except ZygoteLost:
                return EXIT_ZYGOTE_LOST

    def _reap_and_find_zygote(self) -> bool:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._zygote.pid:
                return True

    def _start_lane(self, lane: Lane) -> None:
        threading.Thread(target=self._serve_lane, args=(lane,), name=f"lane {lane}", daemon=True).start()

    def _serve_lane(self, lane: Lane) -> None:
        try:
            served = _LaneStream(lane, self)
            while not served.handed_over:
                stream = self._dialler.dial(lane)
                try:
                    served.serve(stream)
                finally:
                    self._dialler.closed(stream)
        except BaseException as error:  # a lane without a thread would keep the host waiting for ever
            _leave(error)

    @property
    def operations(self) -> KernelOperations:
        return self._operations

    @property
    def files(self) -> WorkingFiles:
        return self._files

    def take_over(self, lane: Lane) -> None:
        self._start_lane(lane)


def _hear_of_children() -> socket.socket:
    """Readable once a child has ended. Without `sigtimedwait`, which macOS lacks."""
    heard, wakeup = socket.socketpair()
    for end in (heard, wakeup):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return heard


def _leave(error: BaseException) -> None:
    with suppress(Exception):
        print(f"sandbox: {error}", file=sys.stderr, flush=True)
    match error:
        case HostGone():
            os._exit(EXIT_HOST_GONE)
        case ZygoteLost():
            os._exit(EXIT_ZYGOTE_LOST)
        case PrefaceRefused():
            os._exit(EXIT_PREFACE_REFUSED)
        case _:
            os._exit(EXIT_FAILED)


class _LaneStream:
    """One thread's service of a lane, one stream at a time."""

    def __init__(self, lane: Lane, supervisor: Supervisor) -> None:
        self._lane = lane
        self._supervisor = supervisor
        self._operations = supervisor.operations
        self._files = supervisor.files
        self.handed_over = False

    def serve(self, stream: BufferedStream) -> None:
        """Answer requests until the stream ends. Nothing that a request does gets out of here but `ZygoteLost`: what
        nobody foresaw is answered as `internal` on a stream that then ends, and the lane goes on."""
        timeout = _SEND_TIMEOUT_S.to_bytes(8, "little") + bytes(8)
        stream.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        try:
            while not self.handed_over and self._answer_one(stream):
                pass
        except (OSError, StreamEnded):
            return
        except ZygoteLost:
            raise
        except Exception as error:
            with suppress(OSError):
                stream.connection.sendall(_encode_error(_describe_fault(error)))

    def _answer_one(self, stream: BufferedStream) -> bool:
        """False when the stream cannot be used for another request."""
        try:
            head = stream.read_head()
            body = stream.read_body(head, MAX_CONTROL_BODY_BYTES)
        except StreamViolation as error:
            stream.connection.sendall(_encode_error(ErrorReply(code=ErrorCode.BAD_REQUEST, message=str(error))))
            return False
        except BodyTooLarge as error:
            stream.connection.sendall(_encode_error(ErrorReply(code=ErrorCode.TOO_LARGE, message=str(error))))
            return False
        hang_up = HangUp(stream.connection, self._hand_over)
        try:
            response = self._respond(head, body, stream, hang_up)
        except (Refused, FileRefused) as refused:
            response = _encode_error(refused.reply)
        except NotThatShape as error:
            response = _encode_error(ErrorReply(code=ErrorCode.BAD_REQUEST, message=str(error)))
        if response is not None and not self.handed_over:
            stream.connection.sendall(response)
        return True

    def _hand_over(self) -> None:
        """Without a thread to hand over to, this one dials again when its request is over."""
        with suppress(RuntimeError, MemoryError):
            self._supervisor.take_over(self._lane)
            self.handed_over = True

    def _respond(self, head: Head, body: bytes, stream: BufferedStream, hang_up: HangUp) -> bytes | None:
        """The whole response, or None when it was streamed."""
        method, target, version = head.start
        if version != "HTTP/1.1":
            raise Refused(ErrorCode.BAD_REQUEST, "expected HTTP/1.1")
        path, _, query = target.partition("?")
        do = self._operations
        if (method, path) == ("POST", "/claim"):
            return _encode_reply(asdict(do.claim(decode_value(ClaimRequest, parse_json(body)), hang_up)))
        do.check_generation(head.headers.get(GENERATION_HEADER))
        match method, path.split("/")[1:]:
            case "PUT", ["cells", cell_id] if cell_id:
                request = decode_value(CellRequest, parse_json(body))
                return encode_response(200, do.run_cell(unquote(cell_id), request, hang_up))
            case "GET", ["cells", cell_id]:
                return encode_response(200, do.await_cell(unquote(cell_id), hang_up))
            case "POST", ["interrupt"]:
                do.interrupt(decode_value(InterruptRequest, parse_json(body)))
                return _encode_reply({})
            case "POST", ["grant"]:
                do.replace_grant(decode_value(GrantRequest, parse_json(body)))
                return _encode_reply({})
            case "POST", ["bind"]:
                return _encode_reply(asdict(do.bind(decode_value(BindRequest, parse_json(body)), hang_up)))
            case "POST", ["restart"]:
                do.restart()
                return _encode_reply({})
            case "POST", ["start-over"]:
                do.restart(empties_files=True)
                return _encode_reply({})
            case "GET", ["variables"]:
                return _encode_reply(asdict(do.list_variables(hang_up)))
            case "GET", ["values", name]:
                self._send_value(unquote(name), query, stream, hang_up)
                return None
        return self._respond_beside_cells(method, path, query, body)

    def _respond_beside_cells(self, method: str, path: str, query: str, body: bytes) -> bytes:
        """What needs no kernel."""
        do = self._operations
        match method, path.split("/")[1:]:
            case "GET", ["stats"]:
                return _encode_reply(asdict(do.stats()))
            case "GET", ["cells", cell_id, "output"]:
                fields = _read_query(query, {"stdout": "0", "stderr": "0"})
                output = do.output(unquote(cell_id), _whole(fields["stdout"]), _whole(fields["stderr"]))
                return _encode_reply(asdict(output))
            case _, ["files", *_]:
                return self._respond_files(method, path, query, body)
        raise Refused(ErrorCode.NOT_FOUND, f"there is no {method[:10]} {path[:80]}")

    def _respond_files(self, method: str, path: str, query: str, body: bytes) -> bytes:
        files = self._files
        match method, path:
            case "GET", "/files":
                return _encode_reply(asdict(files.shown()))
            case "GET", "/files/content":
                fields = _read_query(query, {"path": "", "offset": "0", "limit": str(FILE_PIECE_BYTES), "mark": ""})
                piece = files.read(fields["path"], _whole(fields["offset"]), _whole(fields["limit"]), fields["mark"])
                headers = {
                    "content-type": "application/octet-stream",
                    MARK_HEADER: piece.mark,
                    SIZE_HEADER: str(piece.size_bytes),
                }
                return encode_response(200, piece.data, headers)
            case "PUT", "/files":
                files.put(decode_value(PutFileRequest, parse_json(body)))
                return _encode_reply({})
            case "POST", "/files/delete":
                files.delete(decode_value(DeleteFileRequest, parse_json(body)).path)
                return _encode_reply({})
        raise Refused(ErrorCode.NOT_FOUND, f"there is no {method[:10]} {path[:80]}")

    def _send_value(self, name: str, query: str, stream: BufferedStream, hang_up: HangUp) -> None:
        form, limit = _read_value_query(query)
        value = self._operations.open_value(name, form, limit, hang_up)
        try:
            headers = {
                "content-type": "application/octet-stream",
                TYPE_HEADER: _header_text(value.outcome.type_name),
                DIGEST_HEADER: value.outcome.sha256,
            }
            pending = encode_response_head(200, value.outcome.size_bytes, headers)
            while chunk := value.next_chunk():
                value.send(stream.connection, pending + chunk if pending else chunk)
                pending = b""
            if pending:
                value.send(stream.connection, pending)
        except ZygoteLost:
            raise
        except Exception as error:
            # The length was announced; a closed stream is the only way left to say that it will not come.
            raise StreamEnded(f"a value could not be sent to its end ({type(error).__name__})") from None
        finally:
            value.close()


def _encode_reply(value: dict[str, Any]) -> bytes:
    return encode_response(200, encode_json(value))


def _encode_error(reply: ErrorReply) -> bytes:
    return encode_response(STATUS_OF[reply.code], encode_json(asdict(reply)))


def _describe_fault(error: Exception) -> ErrorReply:
    """Of ours: told where an operator of a process sandbox may see it, and by its kind to the host."""
    with suppress(Exception):
        traceback.print_exception(error)
    return ErrorReply(code=ErrorCode.INTERNAL, message=f"the supervisor failed: {type(error).__name__}")


def _read_value_query(query: str) -> tuple[str, int]:
    fields = dict(part.partition("=")[::2] for part in query.split("&") if part)
    form, limit = fields.pop("as", "text"), fields.pop("limit", str(_MAX_VALUE_BYTES))
    if fields or form not in ("text", "json") or not (limit.isascii() and limit.isdigit() and len(limit) <= 15):
        raise Refused(ErrorCode.BAD_REQUEST, "expected as=text or as=json, and limit=N")
    return form, int(limit)


def _read_query(query: str, fields: dict[str, str]) -> dict[str, str]:
    """The fields, with what the query says in place of the defaults."""
    found = {name: unquote(value) for name, _, value in (part.partition("=") for part in query.split("&") if part)}
    if not found.keys() <= fields.keys():
        raise Refused(ErrorCode.BAD_REQUEST, f"expected no fields but {', '.join(fields)}")
    return fields | found


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Refused(ErrorCode.BAD_REQUEST, "expected a plain number")
    return int(text)


def _header_text(text: str) -> str:
    return "".join(character if character.isascii() and character.isprintable() else "?" for character in text)
