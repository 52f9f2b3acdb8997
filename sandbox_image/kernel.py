"""The interpreter that runs cells: forked from the zygote, untrusted from its first cell on, and free to die.

It reads one request at a time from the `cells` socket and answers it. Everything foreign (a cell, a tool's code, a
value's `__str__`) runs inside `Interrupts.run`, so that neither an exception nor an interrupt reaches this loop.
"""

import builtins
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from io import TextIOWrapper
from typing import Any, NoReturn

from .answers import NAME as ANSWER
from .bindings import BindingRefused, ContextFiles, bind_all
from .cells import CellRunner
from .decoding import decode_value, learn_shape
from .encoded_values import Form, Unserialisable
from .encoded_values import encode_value as encode
from .frames import Frame, FrameDecoder, encode_frame
from .host_functions import CallChannel, HostFunctions
from .interrupts import Interrupts
from .kernel_birth import KernelBirth, KernelTerms
from .kernel_messages import MAX_VARIABLES_LISTED, CellOutcome, KernelReady, ValueOutcome
from .memory_reserve import MemoryReserve
from .namespace import Namespace
from .origins import Origins
from .protocol import (
    MAX_CONTROL_BODY_BYTES,
    AnswerReply,
    BindReply,
    BindRequest,
    ErrorCode,
    ErrorReply,
    VariablesReply,
)
from .shared_text import SharedTexts, Support
from .system import System
from .thread_starts import bound_thread_starts
from .tracebacks import describe_exception

_THREAD_STACK_BYTES = 2 << 20
_MAIN_STACK_BYTES = 8 << 20
_encode_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def run_kernel(birth: KernelBirth, descriptors: list[int], support: Support, system: System) -> NoReturn:
    """The rest of this process's life, right after the fork."""
    status = 70
    try:
        kept = _move_descriptors(descriptors)
        confined = _confine_self(birth, system)
        kernel = Kernel(birth, *kept, limits_memory=system.limits_memory)
        if kernel.begin([*confined, support.remark], support):
            kernel.serve()
        status = 0
    except BaseException:  # a fault of ours: the cell that met it shows where
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(status)


def _move_descriptors(descriptors: list[int]) -> tuple[socket.socket, socket.socket, int, int]:
    """Standard streams in their places, everything else that was inherited closed."""
    cells, calls, output, errors = descriptors
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0, inheritable=False)
    os.dup2(output, 1, inheritable=False)
    os.dup2(errors, 2, inheritable=False)
    keep = {0, 1, 2, *descriptors}
    for descriptor in range(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        if descriptor > max(keep):
            os.closerange(descriptor, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            break
        if descriptor not in keep:
            os.closerange(descriptor, descriptor + 1)
    return socket.socket(fileno=cells), socket.socket(fileno=calls), output, errors


def _confine_self(birth: KernelBirth, system: System) -> list[str]:
    os.setsid()
    in_force = system.prefer_as_oom_victim()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if system.limits_memory:
        # What the stack may grow to is memory that the limit on data does not count.
        _lower_limit(resource.RLIMIT_STACK, _MAIN_STACK_BYTES)
    bound_thread_starts(_THREAD_STACK_BYTES)
    if birth.confined:
        in_force += system.confine_kernel()
    return in_force


def _lower_limit(limit: int, most: int) -> None:
    """The hard one too; one that is lower already stays."""
    hard = resource.getrlimit(limit)[1]
    most = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(limit, (most, most))


class Kernel:
    """One namespace and the loop that serves it."""

    def __init__(
        self,
        birth: KernelBirth,
        cells: socket.socket,
        calls: socket.socket,
        output: int,
        errors: int,
        *,
        limits_memory: bool,
    ) -> None:
        self._birth = birth
        self._connection = cells
        self._decoder = FrameDecoder(max_body_bytes=MAX_CONTROL_BODY_BYTES)
        self._interrupts = Interrupts()
        self._interrupts.guard_handlers()
        self._origins = Origins()
        self._origins.watch()
        self._calls = CallChannel(calls, self._interrupts, self._origins)
        self._output = output
        self._errors = errors
        self._reserve = MemoryReserve(is_limited=limits_memory)
        _prepare_interpreter(birth)
        self._namespace = Namespace(HostFunctions(self._calls))
        self._runner = CellRunner(self._namespace.names)
        self._stdout, self._stderr = _open_stream(1), _open_stream(2)
        self._input = builtins.input = _refuse_input
        self._restore_process()

    def begin(self, confined: list[str], support: Support) -> bool:
        """Stand by until the sandbox is claimed, then put in force what was wanted; False when it never is."""
        self._answer("ready", KernelReady(confinement=confined))
        frame = self._next_frame()
        if frame is None:
            return False
        terms = decode_value(KernelTerms, json.loads(frame.body))
        resource.setrlimit(resource.RLIMIT_FSIZE, (terms.file_bytes, terms.file_bytes))
        if terms.processes is not None:
            _lower_limit(resource.RLIMIT_NPROC, terms.processes)
        self._reserve.limit(terms.memory_bytes)
        shared = None if support.layout is None else SharedTexts(support.layout, self._reserve.make_room)
        self._context_files = ContextFiles(self._birth.contexts_directory, shared)
        random.seed(terms.random_seed)
        self._connection.sendall(encode_frame({"did": "begin"}, b""))
        return True

    def serve(self) -> None:
        """Until the supervisor closes the socket."""
        while (frame := self._next_frame()) is not None:
            self._restore_process()
            match frame.header["do"]:
                case "cell":
                    self._run_cell(frame)
                case "bind":
                    self._bind(frame)
                case "variables":
                    self._list_variables()
                case "value":
                    self._send_value(frame)

    def _next_frame(self) -> Frame | None:
        while (frame := self._decoder.next_frame()) is None:
            data = self._connection.recv(256 << 10)
            if not data:
                return None
            self._decoder.feed(data)
        return frame

    def _answer(self, did: str, value: Any) -> None:
        self._connection.sendall(encode_frame({"did": did}, _encode_json(asdict(value)).encode("ascii")))

    def _restore_process(self) -> None:
        """What a cell may have replaced for all later ones."""
        self._interrupts.restore()
        os.dup2(self._output, 1, inheritable=False)
        os.dup2(self._errors, 2, inheritable=False)
        sys.stdout, sys.stderr = self._stdout, self._stderr  # a stream of the cell's may close what it wraps as it goes
        if not (_is_open(self._stdout) and _is_open(self._stderr)):
            self._stdout, self._stderr = _open_stream(1), _open_stream(2)
            sys.stdout, sys.stderr = self._stdout, self._stderr
        builtins.input = self._input

    def _run_cell(self, frame: Frame) -> None:
        form: Form = frame.header["answer_as"]
        source = frame.body.decode("utf-8", "surrogatepass")
        self._namespace.restore()
        self._origins.open_cell()
        self._calls.open_cell = frame.header["number"]
        number = frame.header["number"]
        error = self._interrupts.run(lambda: self._run_unless_interrupted(number, source))
        if error is None:
            self._reserve.lift()
        else:
            self._reserve.lift_in_need(error)
        self._calls.open_cell = None
        self._interrupts.restore()
        self._answer("cell", self._settle(error, form))

    def _run_unless_interrupted(self, number: int, source: str) -> None:
        """A SIGINT that came before this was ignored, but then its frame is here already."""
        with self._interrupts.held():
            with suppress(BlockingIOError):
                self._decoder.feed(self._connection.recv(256 << 10, socket.MSG_DONTWAIT))
            note = self._decoder.next_frame()
        if note is not None and note.header == {"do": "interrupt", "number": number}:
            raise KeyboardInterrupt
        cell = self._runner.compile_cell(source)
        self._reserve.withhold()
        self._runner.run_cell(cell)

    def _settle(self, error: BaseException | None, form: Form) -> CellOutcome:
        described: AnswerReply | BaseException | None = self._interrupts.run(lambda: self._describe_answer(form))
        answer = described if isinstance(described, AnswerReply) else None
        if error is None and isinstance(described, BaseException):
            error = described
        told = self._interrupts.run(lambda: None if error is None else describe_exception(error))
        if error is not None:
            BaseException.with_traceback(error, None)  # frames would keep the cell's locals alive
        raised = describe_exception(told) if isinstance(told, BaseException) else told
        variables = self._interrupts.run(self._namespace.changed_names)
        flushed = self._interrupts.run(self._flush)
        if raised is None and isinstance(flushed, BaseException):
            raised = describe_exception(flushed)
        return CellOutcome(
            status="ok" if raised is None else "raised",
            raised=raised,
            variables=variables if isinstance(variables, list) else [],
            answer=answer,
        )

    def _describe_answer(self, form: Form) -> AnswerReply | None:
        self._namespace.settle()
        return self._namespace.answer.describe(form)

    def _flush(self) -> None:
        for stream in {sys.stdout, sys.stderr} - {None, self._stdout, self._stderr}:
            stream.flush()
        for stream in (self._stdout, self._stderr):
            if _is_open(stream):
                stream.flush()

    def _bind(self, frame: Frame) -> None:
        request = decode_value(BindRequest, json.loads(frame.body))
        if request.starts_run:
            self._namespace.begin_run()
            self._origins.begin_run()
        bound = self._interrupts.run(lambda: bind_all(self._namespace, request, self._context_files))
        match bound:
            case BindingRefused():
                self._answer("failed", bound.reply)
            case MemoryError():
                self._fail(ErrorCode.TOO_LARGE, "the contexts do not fit into the kernel's memory")
            case BaseException():
                self._fail(ErrorCode.INTERNAL, f"binding failed with {type(bound).__name__}")
            case _:
                self._answer("bind", BindReply(variables=bound))

    def _list_variables(self) -> None:
        variables = self._interrupts.run(self._namespace.variables)
        if isinstance(variables, BaseException):
            self._fail(ErrorCode.INTERNAL, f"the variables could not be listed: {type(variables).__name__}")
        else:
            self._answer("variables", VariablesReply(variables=variables[:MAX_VARIABLES_LISTED]))

    def _send_value(self, frame: Frame) -> None:
        name, form, limit = frame.header["name"], frame.header["as"], frame.header["limit"]
        encoded = self._interrupts.run(lambda: self._encode(name, form, limit))
        match encoded:
            case NameError():
                self._fail(ErrorCode.NOT_FOUND, str(encoded))
            case _TooLarge():
                self._fail(ErrorCode.TOO_LARGE, str(encoded))
            case Unserialisable():
                self._fail(ErrorCode.UNSERIALISABLE, str(encoded))
            case MemoryError():
                self._fail(ErrorCode.TOO_LARGE, "the encoded value does not fit into the kernel's memory")
            case BaseException():
                self._fail(ErrorCode.UNSERIALISABLE, f"encoding the value failed with {type(encoded).__name__}")
            case _:
                outcome = ValueOutcome(
                    type_name=encoded.type_name, size_bytes=encoded.size_bytes, sha256=encoded.sha256
                )
                self._answer("value", outcome)
                for chunk in encoded.chunks():
                    self._connection.sendall(encode_frame({"did": "chunk"}, chunk))

    def _encode(self, name: str, form: Form, limit: int) -> Any:
        value = self._namespace.look_up(name)
        if isinstance(value, str) and str.__len__(value) > limit:
            raise _TooLarge(f"the value has {str.__len__(value)} characters, the limit is {limit} bytes")
        encoded = self._namespace.answer.encode(form) if name == ANSWER else encode(value, form)
        if encoded.size_bytes > limit:
            raise _TooLarge(f"the value has {encoded.size_bytes} bytes, the limit is {limit}")
        return encoded

    def _fail(self, code: ErrorCode, message: str) -> None:
        self._answer("failed", ErrorReply(code=code, message=message[:2000]))


class _TooLarge(Exception):
    pass


def _prepare_interpreter(birth: KernelBirth) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(HOME=birth.tmp_directory, TMPDIR=birth.tmp_directory, LANG="C.UTF-8", PYTHONUTF8="1")
    os.chdir(birth.tmp_directory)
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # -S leaves them out
    if birth.confined:  # modes and times of files cannot be set here, and a copy of one shall not fail for that
        vars(shutil).update(copymode=_leave_attributes, copystat=_leave_attributes)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  (for this process's life)


def rehearse() -> None:
    """What the first bindings and the first cell would make and load, done while nobody waits for it, and once for all
    kernels that are forked afterwards."""
    learn_shape(BindRequest)
    runner = CellRunner({})
    runner.run_cell(runner.compile_cell("0 if None else None"))


def _open_stream(descriptor: int) -> TextIOWrapper:
    """Line-buffered: what was printed before a kernel died is not lost. Anything that is a `str` can be printed."""
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, newline="", closefd=False)


def _is_open(stream: TextIOWrapper) -> bool:
    try:
        return not stream.closed
    except ValueError:  # a cell has detached what it writes to
        return False


def _leave_attributes(_source: object, _target: object, *, follow_symlinks: bool = True) -> None:
    """In the place of `shutil.copymode` and `shutil.copystat`."""


def _refuse_input(_prompt: object = "") -> str:
    """`input()` has nobody to ask."""
    raise EOFError("input() cannot work here: nobody is at a keyboard; everything there is stands in the variables")
