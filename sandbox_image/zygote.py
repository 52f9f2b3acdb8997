"""The process that only ever forks kernels, signals them and reaps them.

Forked from the supervisor before the first connection, so there is no credential in its memory for a kernel to
inherit. One kernel at a time. Signals go through here because only a parent can send them to a pid that cannot
have been reused. Talks over a pair of stream sockets, one JSON object a line:

    → {"do": "fork", …KernelBirth} with four descriptors     ← {"did": "fork", "pid": N}
    → {"do": "signal", "pid": N, "signal": N}                ← {"did": "exit", "pid": N, "status": N}    (reaped)
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, replace
from threading import Lock
from typing import Any

from .kernel import rehearse
from .kernel_birth import KernelBirth
from .system import System

MAX_LINE_BYTES = 16 << 10
_FORK_PATIENCE_S = 60.0
_EXIT_PATIENCE_S = 10.0
"""For a kernel to be gone after SIGKILL. A zygote that does not do it in this time never will: somebody stopped it."""

_PREPARED_MODULES = """
    abc array ast base64 binascii bisect builtins calendar codecs collections collections.abc
    concurrent.futures concurrent.futures.thread contextlib contextvars copy csv ctypes dataclasses datetime
    decimal difflib enum fnmatch fractions functools glob hashlib heapq html html.parser inspect io itertools
    json linecache math mmap numbers operator os os.path pathlib pickle pprint queue random re reprlib secrets
    shutil statistics string struct tempfile textwrap threading time tokenize traceback types typing unicodedata
    urllib.parse uuid warnings xml.etree.ElementTree zlib zoneinfo
"""
"""What models import most. A kernel gets them for the price of a fork; but for asyncio, which takes an
idle sandbox 3 MB and a start 12 ms, and a cell that waits 40 ms without."""


class ZygoteLost(Exception):
    """The zygote is gone or stopped; without it no kernel can be started or ended, so the sandbox ends, and takes
    them all with it."""


class Zygote:
    """The supervisor's handle on it."""

    def __init__(self, pid: int, channel: socket.socket, system: System) -> None:
        self.pid = pid
        self.system = system
        self._channel = channel
        self._notes = _Lines()
        self._send_lock = Lock()  # keeps the lines whole

    def fork_kernel(self, birth: KernelBirth, descriptors: list[int]) -> int:
        """The pid of a new kernel that holds `descriptors`. Waits until the imports are done."""
        self._send({"do": "fork", **asdict(birth)}, descriptors)
        while True:
            note = self._receive(_FORK_PATIENCE_S)
            if note["did"] == "fork":
                return int(note["pid"])

    def signal_kernel(self, pid: int, number: int) -> None:
        """Send a signal to this kernel; no effect when it has ended. Any thread may call it."""
        self._send({"do": "signal", "pid": pid, "signal": number}, [])

    def wait_for_exit(self, pid: int) -> int:
        """The exit code of a kernel that is ending: negative for a signal, as `subprocess` has it."""
        deadline = time.monotonic() + _EXIT_PATIENCE_S
        while True:
            note = self._receive(deadline - time.monotonic())
            if note["did"] == "exit" and note["pid"] == pid:
                return os.waitstatus_to_exitcode(int(note["status"]))

    def poll_exit(self, pid: int) -> int | None:
        """The exit code if it has ended, else None; never waits."""
        while True:
            self._read_what_is_there(0.0)
            note = self._notes.next_line()
            if note is None:
                return None
            if note["did"] == "exit" and note["pid"] == pid:
                return os.waitstatus_to_exitcode(int(note["status"]))

    def _send(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """One that does not take a line at once is stopped: it has nothing else to do than to read them."""
        line = _encode_line(request)
        try:
            with self._send_lock:
                if descriptors:
                    sent = socket.send_fds(self._channel, [line], descriptors, socket.MSG_DONTWAIT)
                else:
                    sent = self._channel.send(line, socket.MSG_DONTWAIT)
        except OSError as error:
            raise ZygoteLost(f"the zygote does not take requests ({error.strerror})") from error
        if sent != len(line):
            raise ZygoteLost("the zygote does not take requests")

    def _receive(self, patience_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while (note := self._notes.next_line()) is None:
            if not self._read_what_is_there(deadline - time.monotonic()):
                raise ZygoteLost("the zygote does not answer in time")
        return note

    def _read_what_is_there(self, patience_s: float) -> bool:
        """Whether something came in this time."""
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        if not waiting.poll(max(0.0, patience_s) * 1000):
            return False
        try:
            data = self._channel.recv(MAX_LINE_BYTES)
        except OSError as error:
            raise ZygoteLost(f"the zygote does not answer ({error.strerror})") from error
        if not data:
            raise ZygoteLost("the zygote has ended")
        self._notes.feed(data)
        return True


class _Lines:
    """Bytes of the channel in, whole objects out. Both ends are ours, and no kernel holds either: what is no object of
    a line ends the one that reads it."""

    def __init__(self) -> None:
        self._begun = b""
        self._whole: deque[bytes] = deque()

    def feed(self, data: bytes) -> None:
        *whole, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        self._whole.extend(whole)

    def next_line(self) -> dict[str, Any] | None:
        """The oldest one that was not taken yet."""
        if not self._whole:
            return None
        line: dict[str, Any] = json.loads(self._whole.popleft())
        return line


def _encode_line(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode("ascii") + b"\n"


def start_zygote(system: System, *, confined: bool) -> Zygote:
    """Fork it. The caller must have no other thread and no connection yet. A `confined` one forks no kernel that is
    not, whatever it is asked for."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            ours.close()
            system.die_with_parent(parent)
            _ZygoteProcess(theirs, system, confined=confined).serve()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    return Zygote(pid, ours, system)


class _ZygoteProcess:
    def __init__(self, channel: socket.socket, system: System, *, confined: bool) -> None:
        from .shared_text import find_support, this_interpreter  # noqa: PLC0415  (not before `prepare`)

        self._channel = channel
        self._system = system
        self._requests = _Lines()
        self._descriptors: list[int] = []
        self._confined = confined
        self._kernel: int | None = None
        self._support = find_support(this_interpreter())

    def serve(self) -> None:
        """Until the supervisor is gone, and then without the kernel: not everywhere does that die by itself."""
        wakeup, wakeup_end = socket.socketpair()
        wakeup.setblocking(False)
        wakeup_end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.set_wakeup_fd(wakeup_end.fileno(), warn_on_full_buffer=False)
        gc.freeze()  # what was imported stays; collecting first would take longer than what it finds is worth
        gc.enable()
        is_wanted = True
        while is_wanted:
            readable, _, _ = select.select([self._channel, wakeup], [], [])
            if wakeup in readable:
                wakeup.recv(4096)
                self._reap()
            if self._channel in readable:
                is_wanted = self._read_requests()
        if self._kernel is not None:
            os.kill(self._kernel, signal.SIGKILL)

    def _read_requests(self) -> bool:
        """False when there will be no more, or none of a supervisor of ours."""
        data, descriptors, _, _ = socket.recv_fds(self._channel, MAX_LINE_BYTES, 4)
        if not data:
            return False
        self._requests.feed(data)
        self._descriptors += descriptors
        while (request := self._requests.next_line()) is not None:
            if request.pop("do") == "signal":
                self._signal(request["pid"], request["signal"])
            elif self._kernel is not None:
                return False  # a supervisor of ours waits for the end of one: this one is somebody else's
            else:
                self._fork(KernelBirth(**request))
        return True

    def _fork(self, birth: KernelBirth) -> None:
        from .kernel import run_kernel  # noqa: PLC0415  (not before `prepare`)

        birth = replace(birth, confined=birth.confined or self._confined)
        descriptors, self._descriptors = self._descriptors, []
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._system.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run_kernel(birth, descriptors, self._support, self._system)
        self._adopt(pid, descriptors)

    def _adopt(self, pid: int, descriptors: list[int]) -> None:
        self._kernel = pid
        for descriptor in descriptors:
            os.close(descriptor)
        self._tell({"did": "fork", "pid": pid})

    def _signal(self, pid: int, number: int) -> None:
        if pid == self._kernel:  # not reaped yet, so the pid is still its own
            os.kill(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._kernel:
                self._kernel = None
                self._tell({"did": "exit", "pid": pid, "status": status})

    def _tell(self, note: dict[str, Any]) -> None:
        self._channel.sendall(_encode_line(note))


def prepare() -> None:
    """Import what a kernel is made of and what models import most, for all kernels to come; in the process that is to
    fork the zygote, so that the two share it."""
    for name in _PREPARED_MODULES.split():
        with suppress(ImportError):  # a Python may be built without one of them
            importlib.import_module(name)
    # The package's parent may hold more than the package; nothing else is to be importable from a cell.
    package_parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != package_parent]
    sys.path_importer_cache.pop(package_parent, None)
    sys.argv[:] = [""]
    rehearse()
