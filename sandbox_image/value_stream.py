"""A value on its way from the kernel to the host.

The kernel is watched all the while like one that runs a cell: what made the value may be hostile, and goes on running
beside it. Only the time for which the host does not take what is there is not the kernel's.
"""

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from .kernel_exit import KernelLost
from .kernel_life import KernelLife
from .kernel_messages import ValueOutcome
from .memory_watch import WATCH_INTERVAL_S

HOST_PATIENCE_S = 60.0
"""For the host to take a few bytes."""
PATIENCE_S = 20.0
LEAST_BYTES_PER_S = 16 << 20
"""A kernel only copies by now; under gVisor on a busy machine it does so a tenth as fast as it can."""


class ValueStream:
    """`close` gives the kernel back."""

    def __init__(self, life: KernelLife, outcome: ValueOutcome, release: Callable[[], None]) -> None:
        self._life = life
        self._release = release
        self._left = outcome.size_bytes
        self._clock = life.new_clock()
        self._limit_s = PATIENCE_S + outcome.size_bytes / LEAST_BYTES_PER_S
        self.outcome = outcome

    def next_chunk(self) -> bytes:
        """Empty at the end. Raises `KernelLost`."""
        if self._left == 0:
            return b""
        chunk = self._life.next_chunk(self._clock, self._limit_s)
        if len(chunk) > self._left:
            raise self._life.bury("the kernel broke the protocol: more of a value than it announced")
        self._left -= len(chunk)
        return chunk

    def send(self, connection: socket.socket, data: bytes) -> None:
        """To the host, as fast as it takes it.

        Raises:
            KernelLost: the kernel took too much meanwhile.
            OSError: the host is gone, or takes nothing.
        """
        waiting = select.poll()
        waiting.register(connection, select.POLLOUT)
        left = memoryview(data)
        gives_up_at = time.monotonic() + HOST_PATIENCE_S
        self._clock.begin_wait()
        try:
            while left:
                if waiting.poll(WATCH_INTERVAL_S * 1000):
                    with suppress(BlockingIOError):
                        left = left[connection.send(left, socket.MSG_DONTWAIT) :]
                        gives_up_at = time.monotonic() + HOST_PATIENCE_S
                elif time.monotonic() >= gives_up_at:
                    raise TimeoutError("the host takes nothing of a value")
                else:
                    self._life.check_while_sending(self._clock, self._limit_s)
        finally:
            self._clock.end_wait()

    def close(self) -> None:
        """Reads to the end even if nobody wants it: the kernel can do nothing else until it has sent everything."""
        try:
            with suppress(KernelLost):
                while self._left:
                    self.next_chunk()
        finally:
            self._release()
