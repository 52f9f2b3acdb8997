"""What a cell printed: the head and the tail of each stream, and how long it truly was.

The supervisor drains the kernel's pipes into these rings, so printing never blocks a kernel and ten gigabytes of
output cost as much memory as ten kilobytes.
"""

import array
import binascii
import fcntl
import os
import termios
import threading
from collections import deque

from .protocol import CAPTURE_HEAD_BYTES, CAPTURE_TAIL_BYTES, OUTPUT_PIECE_BYTES, Captured, OutputPiece

_READ_BYTES = 256 << 10


class HeadTailRing:
    """Keeps the first `head_limit` and the last `tail_limit` bytes of all that is added."""

    def __init__(self, head_limit: int = CAPTURE_HEAD_BYTES, tail_limit: int = CAPTURE_TAIL_BYTES) -> None:
        self._head_limit = head_limit
        self._tail_limit = tail_limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._lock = threading.Lock()  # keeps the counts and the bytes together for who looks while they grow
        self.size_bytes = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            self.size_bytes += len(data)
            room = self._head_limit - len(self._head)
            if room > 0:
                self._head += data[:room]
                data = data[room:]
            if data:
                self._add_to_tail(data[-self._tail_limit :])

    def piece(self, from_byte: int) -> OutputPiece:
        """What there is from that byte on, or from the first one behind it that is kept."""
        with self._lock:
            size = self.size_bytes
            start = min(from_byte, size)
            if start < len(self._head):
                data = bytes(self._head[start : start + OUTPUT_PIECE_BYTES])
            else:
                tail = self.tail()
                start = max(start, size - len(tail))
                skipped = start - (size - len(tail))
                data = tail[skipped : skipped + OUTPUT_PIECE_BYTES]
        return OutputPiece(
            from_byte=start, data=binascii.b2a_base64(data, newline=False).decode("ascii"), size_bytes=size
        )

    def _add_to_tail(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= self._tail_limit:
            self._tail_size -= len(self._tail.popleft())
        if len(self._tail) > 4096:  # ten million one-byte writes must not become ten million objects
            joined = b"".join(self._tail)[-self._tail_limit :]
            self._tail = deque([joined])
            self._tail_size = len(joined)

    def head(self) -> bytes:
        return bytes(self._head)

    def tail(self) -> bytes:
        """Empty when `head` holds everything."""
        return b"".join(self._tail)[-self._tail_limit :]

    def captured(self) -> Captured:
        """As it is reported. Bytes that are not UTF-8 are shown as escapes."""
        return Captured(
            head=self.head().decode("utf-8", "backslashreplace"),
            tail=self.tail().decode("utf-8", "backslashreplace"),
            size_bytes=self.size_bytes,
        )


class OutputPipe:
    """The supervisor's end of one of a kernel's output pipes, and the ring of the cell that is running."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._ring = HeadTailRing()

    def drain_some(self) -> bool:
        """Read what is there, once. False at the end of the stream."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return True
        self._ring.add(data)
        return bool(data)

    def drain_what_is_written(self) -> None:
        """Read exactly what is in the pipe now: called after the frame that ends a cell, so that what a
        leftover thread prints later cannot keep the reader here for ever."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self.descriptor, termios.FIONREAD, waiting)
        left = waiting[0]
        while left > 0:
            data = os.read(self.descriptor, min(left, _READ_BYTES))
            if not data:
                return
            left -= len(data)
            self._ring.add(data)

    @property
    def ring(self) -> HeadTailRing:
        """What is captured now: the running cell's."""
        return self._ring

    def take_ring(self) -> HeadTailRing:
        """What was captured so far; capturing starts anew."""
        ring, self._ring = self._ring, HeadTailRing()
        return ring

    def close(self) -> None:
        os.close(self.descriptor)
