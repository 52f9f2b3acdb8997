"""One life of a kernel as the supervisor holds it: its process, its two sockets, its two output pipes.

Whoever calls `ask` holds the supervisor's operation lock, so a life has one conversation at a time; only
`kill` and replies to host calls come from other threads.
"""

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from typing import Any

from .capture import OutputPipe
from .clock import Act, ActiveClock, Ladder, Limits, Reason, climb, next_look_s
from .decoding import NotThatShape, decode_value, parse_json
from .file_watch import FileWatch
from .frames import Frame, FrameDecoder, FrameViolation, encode_frame
from .hang_up import HANG_UP, HangUp
from .host_calls import HostCalls
from .http_stream import encode_json
from .kernel_birth import KernelBirth, KernelTerms
from .kernel_exit import KernelLost, describe_exit
from .kernel_messages import MAX_KERNEL_BODY_BYTES, KernelReady
from .memory_watch import WATCH_INTERVAL_S, MemoryWatch
from .protocol import MAX_HOST_CALL_BODY_BYTES
from .waker import Waker
from .zygote import Zygote, ZygoteLost

_RECEIVE_BYTES = 256 << 10
_SEND_PATIENCE_S = 10
_BIRTH_PATIENCE_MS = 20_000
_FULL_LOOK_S = 0.02
_IDLE_CPU_S = 0.5
"""What threads that a cell left behind may take between two requests."""


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask of a kernel, and how long it may take."""

    header: dict[str, Any]
    body: bytes
    limits: Limits
    clock: ActiveClock


class KernelLife:
    """A running kernel."""

    def __init__(self, zygote: Zygote, birth: KernelBirth, waker: Waker) -> None:
        """Fork one and wait until it stands by, confined; `begin` comes before anything else is asked of it.

        Raises:
            KernelLost: it did not come up.
            ZygoteLost: no kernel can come up any more.
        """
        self._zygote = zygote
        self.cells, cells_end = socket.socketpair()
        self.calls, calls_end = socket.socketpair()
        output, output_end = os.pipe()
        errors, errors_end = os.pipe()
        self.pid = zygote.fork_kernel(birth, [cells_end.fileno(), calls_end.fileno(), output_end, errors_end])
        for end in (cells_end, calls_end):
            end.close()
        os.close(output_end)
        os.close(errors_end)
        patience = _SEND_PATIENCE_S.to_bytes(8, "little") + bytes(8)
        self.cells.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self.stdout = OutputPipe(output)
        self.stderr = OutputPipe(errors)
        self._waker = waker
        self._killed_because: str | None = None
        self._ladder = Ladder()
        self._idle_cpu_s: float | None = None
        self._is_stopped = False
        self._reply_lock = Lock()  # keeps the frames on `calls` whole
        self._cells_decoder = FrameDecoder(max_body_bytes=MAX_KERNEL_BODY_BYTES)
        self._calls_decoder = FrameDecoder(max_body_bytes=MAX_HOST_CALL_BODY_BYTES)
        self.ended_with: str | None = None
        self.confinement = self._await_ready()
        self._files = FileWatch(birth.tmp_directory)
        if self._files.is_possible:
            self.confinement.append("file-watch")

    def begin(self, terms: KernelTerms) -> None:
        """Tell it what its session wants, and wait until it has put that in force.

        Raises:
            KernelLost: it could not.
        """
        self._memory_bytes = terms.memory_bytes
        self._memory = MemoryWatch(partial(self._zygote.system.held_bytes, self.pid), terms.memory_bytes)
        if self._memory.is_possible:
            self.confinement.append("memory-watch")
        self._send_cells(encode_frame({"do": "begin"}, encode_json(asdict(terms))))
        if self._await_first_words().header != {"did": "begin"}:
            raise self.bury("the kernel broke the protocol: it did not begin")

    def _await_ready(self) -> list[str]:
        frame = self._await_first_words()
        try:
            return decode_value(KernelReady, parse_json(frame.body)).confinement
        except NotThatShape as error:
            raise self.bury(f"the kernel broke the protocol: {error}") from None

    def _await_first_words(self) -> Frame:
        waiting = select.poll()
        waiting.register(self.cells, select.POLLIN)
        while (frame := self._cells_decoder.next_frame()) is None:
            if not waiting.poll(_BIRTH_PATIENCE_MS):
                raise self.bury("the kernel did not start in time")
            self._receive_cells()
        return frame

    def ask(
        self,
        request: Request,
        *,
        asked_to_stop: Callable[[], bool],
        host_calls: HostCalls,
        hang_up: HangUp,
    ) -> Frame:
        """Send one request and wait for its answer under the ladder, draining output and host calls meanwhile.

        Raises:
            KernelLost: no answer will come. `ladder_reason` tells whether it was stopped on purpose.
            ZygoteLost: it cannot be stopped.
        """
        self.begin_ladder()
        self._go_on()
        self._check_silence()
        self._send_cells(encode_frame(request.header, request.body))
        clock, limits = request.clock, request.limits
        polled = self._polled(hang_up)
        calls_are_read = True
        while True:
            if (frame := self._cells_decoder.next_frame()) is not None:
                self._drain_calls(host_calls)
                return frame
            if self._killed_because is not None:
                raise self.bury(None)
            self._check_takings()
            wall_s, active_s = clock.wall_s(), clock.active_s()
            self._ladder, act = climb(self._ladder, limits, wall_s=wall_s, active_s=active_s, asked=asked_to_stop())
            if act is not Act.NOTHING:
                self._stop(act, request)
            if calls_are_read != host_calls.can_take():
                calls_are_read = not calls_are_read
                polled.modify(self.calls, select.POLLIN if calls_are_read else 0)
            look_s = next_look_s(self._ladder, limits, wall_s=wall_s, active_s=active_s)
            if self._memory.is_possible or self._files.is_possible:
                look_s = min(look_s, WATCH_INTERVAL_S)
            if not calls_are_read:
                look_s = min(look_s, _FULL_LOOK_S)
            for descriptor, _ in polled.poll(look_s * 1000 + 1):
                self._attend(descriptor, polled, host_calls, hang_up)

    def begin_ladder(self) -> None:
        """Forget why an earlier request was stopped. `ask` does so itself; for a request that may not come to it."""
        self._ladder = Ladder()

    def look_at_idle(self) -> None:
        """Now and then while nobody asks anything of it: what a cell left behind may finish something small, but not
        go on at the machine's expense. It is stopped then until the next request, which is what pays for it.

        Raises:
            KernelLost: it took too much memory, or made too many files.
            ZygoteLost: it cannot be stopped.
        """
        self._check_takings()
        if self._is_stopped:
            return
        with suppress(OSError):  # it has ended; the next request finds out
            cpu_s = self._zygote.system.process_cpu_s(self.pid)
            if self._idle_cpu_s is None:
                self._idle_cpu_s = cpu_s
            elif cpu_s - self._idle_cpu_s > _IDLE_CPU_S:
                self._zygote.signal_kernel(self.pid, signal.SIGSTOP)
                self._is_stopped = True

    def _go_on(self) -> None:
        self._idle_cpu_s = None
        if self._is_stopped:
            self._zygote.signal_kernel(self.pid, signal.SIGCONT)
            self._is_stopped = False

    def _check_silence(self) -> None:
        """A kernel that speaks before it is asked would be answering the next request with what it made up."""
        self._receive_cells()
        if self._cells_decoder.next_frame() is not None:
            raise self.bury("the kernel broke the protocol: it spoke without being asked")

    def _check_takings(self) -> None:
        if self._memory.finds_too_much():
            raise self.bury(f"the interpreter was ended: it took more memory than its {self._memory_bytes >> 20} MiB")
        if self._files.finds_too_many():
            lost = self.bury("the interpreter was ended: it made too many files in /tmp, which is empty now")
            if not self._files.make_empty():
                raise ZygoteLost("files in /tmp that cannot be removed")
            raise lost

    def _stop(self, act: Act, request: Request) -> None:
        if act is Act.KILL:
            raise self.bury(None)
        # The signal may come before the kernel has begun with the cell, and is then ignored; it looks for this frame.
        note = encode_frame({"do": "interrupt", "number": request.header.get("number")})
        with suppress(OSError):
            self.cells.send(note, socket.MSG_DONTWAIT)
        self._zygote.signal_kernel(self.pid, signal.SIGINT)

    def new_clock(self) -> ActiveClock:
        """For one request, from now on."""
        return ActiveClock(partial(self._zygote.system.process_cpu_s, self.pid))

    @property
    def ladder_reason(self) -> Reason | None:
        """Why the last request was stopped, if it was."""
        return self._ladder.reason

    def _polled(self, hang_up: HangUp) -> select.poll:
        polled = select.poll()
        pipes = (self.stdout.descriptor, self.stderr.descriptor)
        for readable in (self.cells.fileno(), self.calls.fileno(), *pipes, self._waker.descriptor):
            polled.register(readable, select.POLLIN)
        if (watched := hang_up.watched()) is not None:
            polled.register(watched, HANG_UP)
        return polled

    def _attend(self, descriptor: int, polled: select.poll, host_calls: HostCalls, hang_up: HangUp) -> None:
        if descriptor == self.cells.fileno():
            self._receive_cells()
        elif descriptor == self.calls.fileno():
            if not self._receive_calls(host_calls):
                polled.unregister(descriptor)
        elif descriptor == self._waker.descriptor:
            self._waker.calm()
        elif descriptor == hang_up.watched():
            polled.unregister(descriptor)
            hang_up.happened()
        else:
            pipe = self.stdout if descriptor == self.stdout.descriptor else self.stderr
            if not pipe.drain_some():
                polled.unregister(descriptor)

    def _receive_cells(self) -> None:
        try:
            data = self.cells.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise self.bury(None)
        try:
            self._cells_decoder.feed(data)
        except FrameViolation as error:
            raise self.bury(f"the kernel broke the protocol: {error}") from None

    def _receive_calls(self, host_calls: HostCalls) -> bool:
        try:
            data = self.calls.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        try:
            self._calls_decoder.feed(data)
        except FrameViolation as error:
            raise self.bury(f"the kernel broke the protocol: {error}") from None
        while (frame := self._calls_decoder.next_frame()) is not None:
            host_calls.take(frame, self.answer_call)
        return True

    def _drain_calls(self, host_calls: HostCalls) -> None:
        """A call that was written before the cell ended belongs to that cell, even if it is read after."""
        polled = select.poll()
        polled.register(self.calls, select.POLLIN)
        for _ in range(16):
            if not polled.poll(0) or not self._receive_calls(host_calls):
                return

    def _send_cells(self, data: bytes) -> None:
        try:
            self.cells.sendall(data)
        except OSError:
            raise self.bury(None) from None

    def answer_call(self, header: dict[str, Any], body: bytes) -> None:
        """Send the reply of a host call; silently nothing when the kernel is gone.

        Waits for as long as the kernel does not read, so never on the thread that is in `ask`.
        """
        data = encode_frame(header, body)
        with self._reply_lock, suppress(OSError):
            self.calls.sendall(data)

    def next_chunk(self, clock: ActiveClock, limit_s: float) -> bytes:
        """The next piece of a value that a frame announced; all of them together have so many active seconds.

        Raises:
            KernelLost: it took too long or too much, ended, or sent something else.
            ZygoteLost: what it made cannot be taken away.
        """
        waiting = select.poll()
        waiting.register(self.cells, select.POLLIN)
        waiting.register(self._waker.descriptor, select.POLLIN)
        while True:
            self.check_while_sending(clock, limit_s)
            if (frame := self._cells_decoder.next_frame()) is not None:
                break
            for descriptor, _ in waiting.poll(WATCH_INTERVAL_S * 1000):
                if descriptor == self._waker.descriptor:
                    self._waker.calm()
                else:
                    self._receive_cells()
        if frame.header.get("did") != "chunk" or not frame.body:
            raise self.bury("the kernel broke the protocol: expected a piece of a value")
        return frame.body

    def check_while_sending(self, clock: ActiveClock, limit_s: float) -> None:
        """Now and then while a value is under way. Raises as `next_chunk` does."""
        if self._killed_because is not None:
            raise self.bury(None)
        self._check_takings()
        if clock.active_s() >= limit_s:
            raise self.bury("the interpreter was ended: it took too long to hand over a value")

    def kill(self, why: str) -> None:
        """End it from another thread than the one that talks to it, which will make sure that it is dead."""
        self._killed_because = why
        self._zygote.signal_kernel(self.pid, signal.SIGKILL)
        self._waker.wake()

    def check_alive(self) -> None:
        """Raise `KernelLost` if it died while nobody was talking to it."""
        if self.ended_with is None and (code := self._zygote.poll_exit(self.pid)) is not None:
            self._end(describe_exit(code))
        if self.ended_with is not None:
            raise KernelLost(self.ended_with)

    def bury(self, why: str | None) -> KernelLost:
        """Make sure that it is dead, and say how it died (`why`, or else by its exit code)."""
        if self.ended_with is None:
            self._zygote.signal_kernel(self.pid, signal.SIGKILL)
            code = self._zygote.wait_for_exit(self.pid)
            self._end(self._killed_because or why or describe_exit(code))
        assert self.ended_with is not None
        return KernelLost(self.ended_with)

    def _end(self, how: str) -> None:
        self.ended_with = how
        for pipe in (self.stdout, self.stderr):
            pipe.drain_what_is_written()
            pipe.close()
        # Shut down, not closed: a thread that answers a host call may be inside `sendall` with this descriptor.
        for end in (self.cells, self.calls):
            end.shutdown(socket.SHUT_RDWR)
