"""A host that goes away while the kernel is at work for it."""

import select
import socket
from collections.abc import Callable

HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""The first one is Linux's alone, and tells of a stream that is closed in one direction."""


class HangUp:
    """What to do when the stream that asked is closed while the kernel is still at work."""

    def __init__(self, connection: socket.socket, do: Callable[[], None]) -> None:
        self._connection: socket.socket | None = connection
        self._do = do

    def watched(self) -> int | None:
        return None if self._connection is None else self._connection.fileno()

    def happened(self) -> None:
        self._connection = None
        self._do()

    def check(self) -> None:
        """Look once, for who waits for something else than descriptors."""
        if self._connection is not None:
            polled = select.poll()
            polled.register(self._connection, HANG_UP)
            if polled.poll(0):
                self.happened()
