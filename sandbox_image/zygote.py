"""The process that only ever forks kernels, signals them and reaps them.

Forked from the supervisor before the first connection, so there is no credential in its memory for a kernel to
inherit. One kernel at a time. Signals go through here because only a parent can send them to a pid that cannot
have been reused. Talks over a SOCK_SEQPACKET pair, one JSON object a packet:

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
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from . import confinement
from .kernel_birth import KernelBirth

MAX_PACKET_BYTES = 16 << 10
_FORK_PATIENCE_S = 60.0
_EXIT_PATIENCE_S = 10.0
"""For a kernel to be gone after SIGKILL. A zygote that does not do it in this time never will: somebody stopped it."""

_PREPARED_MODULES = """
    abc array ast asyncio base64 binascii bisect builtins calendar codecs collections collections.abc
    concurrent.futures concurrent.futures.thread contextlib contextvars copy csv ctypes dataclasses datetime
    decimal difflib enum fnmatch fractions functools glob hashlib heapq html html.parser inspect io itertools
    json linecache math mmap numbers operator os os.path pathlib pickle pprint queue random re reprlib secrets
    shutil statistics string struct tempfile textwrap threading time tokenize traceback types typing unicodedata
    urllib.parse uuid warnings xml.etree.ElementTree zlib zoneinfo
"""
"""What models import most. A kernel gets them for the price of a fork."""


class ZygoteLost(Exception):
    """The zygote is gone or stopped; without it no kernel can be started or ended, so the sandbox ends, and takes
    them all with it."""


class Zygote:
    """The supervisor's handle on it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel

    def fork_kernel(self, birth: KernelBirth, descriptors: list[int]) -> int:
        """The pid of a new kernel that holds `descriptors`. Waits until the imports are done."""
        packet = json.dumps({"do": "fork", **asdict(birth)}).encode("ascii")
        try:
            socket.send_fds(self.channel, [packet], descriptors)
        except OSError as error:
            raise ZygoteLost(f"the zygote does not take requests ({error.strerror})") from error
        while True:
            note = self._receive(_FORK_PATIENCE_S)
            if note["did"] == "fork":
                return int(note["pid"])

    def signal_kernel(self, pid: int, number: int) -> None:
        """Send a signal to this kernel; no effect when it has ended. Any thread may call it."""
        packet = json.dumps({"do": "signal", "pid": pid, "signal": number}).encode("ascii")
        try:
            self.channel.send(packet, socket.MSG_DONTWAIT)
        except OSError as error:
            raise ZygoteLost(f"the zygote does not take requests ({error.strerror})") from error

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
            if not self._is_readable(0.0):
                return None
            note = self._receive(0.0)
            if note["did"] == "exit" and note["pid"] == pid:
                return os.waitstatus_to_exitcode(int(note["status"]))

    def _is_readable(self, patience_s: float) -> bool:
        waiting = select.poll()
        waiting.register(self.channel, select.POLLIN)
        return bool(waiting.poll(max(0.0, patience_s) * 1000))

    def _receive(self, patience_s: float) -> dict[str, Any]:
        if not self._is_readable(patience_s):
            raise ZygoteLost("the zygote does not answer in time")
        try:
            packet = self.channel.recv(MAX_PACKET_BYTES)
        except OSError as error:
            raise ZygoteLost(f"the zygote does not answer ({error.strerror})") from error
        if not packet:
            raise ZygoteLost("the zygote has ended")
        note: dict[str, Any] = json.loads(packet)
        return note


def start_zygote(*, confined: bool) -> Zygote:
    """Fork it. The caller must have no other thread and no connection yet. A `confined` one forks no kernel that is
    not, whatever it is asked for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            ours.close()
            confinement.die_with_parent(parent)
            _ZygoteProcess(theirs, confined=confined).serve()
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    return Zygote(pid, ours)


class _ZygoteProcess:
    def __init__(self, channel: socket.socket, *, confined: bool) -> None:
        self._channel = channel
        self._confined = confined
        self._kernel: int | None = None

    def serve(self) -> None:
        """Until the supervisor is gone."""
        from .kernel import run_kernel  # noqa: PLC0415  (not before `prepare`)
        from .shared_text import find_support, this_interpreter  # noqa: PLC0415  (likewise)

        support = find_support(this_interpreter())

        wakeup, wakeup_end = socket.socketpair()
        wakeup.setblocking(False)
        wakeup_end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.set_wakeup_fd(wakeup_end.fileno(), warn_on_full_buffer=False)
        gc.freeze()  # what was imported stays; collecting first would take longer than what it finds is worth
        gc.enable()
        while True:
            readable, _, _ = select.select([self._channel, wakeup], [], [])
            if wakeup in readable:
                wakeup.recv(4096)
                self._reap()
            if self._channel in readable:
                packet, descriptors, _, _ = socket.recv_fds(self._channel, MAX_PACKET_BYTES, 4)
                if not packet:
                    return
                request = json.loads(packet)
                if request.pop("do") == "signal":
                    self._signal(request["pid"], request["signal"])
                else:
                    if self._kernel is not None:
                        return  # a supervisor of ours waits for the end of one: this one is somebody else's
                    birth = KernelBirth(**request)
                    birth = replace(birth, confined=birth.confined or self._confined)
                    parent = os.getpid()
                    pid = os.fork()
                    if pid == 0:
                        confinement.die_with_parent(parent)
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        run_kernel(birth, descriptors, support)
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
        self._channel.send(json.dumps(note).encode("ascii"))


def prepare() -> None:
    """Import what a kernel is made of and what models import most, for all kernels to come; in the process that is to
    fork the zygote, so that the two share it."""
    # asyncio does without TLS where Python has none, and here is no network to speak it on. A cell may still import it.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    import asyncio  # noqa: F401, PLC0415  (see above)

    del sys.modules["ssl"]
    for name in _PREPARED_MODULES.split():
        with suppress(ImportError):  # a Python may be built without one of them
            importlib.import_module(name)
    # The package's parent may hold more than the package; nothing else is to be importable from a cell.
    package_parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != package_parent]
    sys.path_importer_cache.pop(package_parent, None)
    sys.argv[:] = [""]
    from .kernel import rehearse  # noqa: PLC0415  (asyncio comes first, see above)

    rehearse()
