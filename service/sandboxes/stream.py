"""One connected unix stream, on asyncio's own socket calls.

Not anyio's stream: its reader is a bare `Future.set_result`, so a cancellation and incoming bytes in the same turn of
the event loop raise InvalidStateError there (seen with anyio 4.16). Callers are cancelled while sandboxes send all the
time, and `loop.sock_recv` looks whether its future is done. `loop.sock_accept` does not (CPython 3.11), and would lose
the connection besides; hence `accept`. The price is that this room runs on asyncio only, as uvicorn and aiohttp make
the service do anyway.

`loop.sock_recv` returns without suspending while bytes wait, and so does `accept`: a peer that sends faster than we
read would keep every other task, and its own deadline, from running. Both give way first, each time.
"""

import asyncio
import contextlib
import select
import socket
import struct
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

_FULL_QUEUE_PAUSE_S = 0.01
_PEER = struct.Struct("iII")
"""pid, uid, gid: `struct ucred` of unix(7)."""
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2
"""Of <sys/un.h> on macOS."""
_XUCRED_BYTES = 76


class UnixStream:
    """Owns the socket. One task may receive and one may send at a time."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._in_use = 0
        """How many tasks receive or send just now."""
        self._is_closing = False

    def peer(self) -> tuple[int, int]:
        """The pid and the uid of whoever connected, as the operating system knows them, in our namespaces. Raises
        `OSError`."""
        if sys.platform == "darwin":
            pid = self._socket.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
            told = self._socket.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
            return pid, uid_on_macos(told)
        pid, uid, _ = _PEER.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return int(pid), int(uid)

    async def receive(self, max_bytes: int = 1 << 16) -> bytes:
        """At least one byte. Raises `anyio.EndOfStream`, `anyio.BrokenResourceError`."""
        self._check_open()
        await anyio.lowlevel.checkpoint()
        self._check_open()
        try:
            with self._used():
                received = await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        if not received:
            raise anyio.EndOfStream
        return received

    async def send(self, message: bytes) -> None:
        """All of it. Raises `anyio.BrokenResourceError`."""
        self._check_open()
        try:
            with self._used():
                await asyncio.get_running_loop().sock_sendall(self._socket, message)
        except OSError as exc:
            raise anyio.BrokenResourceError from exc

    def is_used_up(self) -> bool:
        """Whether there are bytes or the end on it while nothing was asked; either way nothing can be asked on it."""
        if self._is_closing:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def holds_bytes(self) -> bool:
        """Whether something was sent that nobody received yet; an end without bytes is none."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing there, or closed
            return False

    def shut_down(self) -> None:
        """Let a pending receive see the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent. A task that receives or sends just now sees the end, and the socket is closed behind it: the
        event loop must not be left waiting on a number that may soon be another file's."""
        self._is_closing = True
        if self._in_use:
            self.shut_down()
        else:
            self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        self._in_use += 1
        try:
            yield
        finally:
            self._in_use -= 1
            if self._is_closing and not self._in_use:
                self._socket.close()

    def _check_open(self) -> None:
        if self._is_closing:
            raise anyio.ClosedResourceError


async def connect(path: str) -> UnixStream:
    """To a socket of this machine, waiting while its queue is full. Raises `OSError`.

    Not `loop.sock_connect`: it takes a full queue's EAGAIN for a connection under way, and returns a socket that is
    connected to nothing.
    """
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        while True:
            try:
                connecting.connect(path)
                return UnixStream(connecting)
            except BlockingIOError:
                await anyio.sleep(_FULL_QUEUE_PAUSE_S)
    except BaseException:
        connecting.close()
        raise


def uid_on_macos(told: bytes) -> int:
    """Out of a `struct xucred` of <sys/ucred.h>: a version, then the uid. Raises `OSError` for another version."""
    version, uid = struct.unpack_from("=II", told)
    if version != 0:
        raise OSError(f"expected version 0 of who connected, found {version}")
    return int(uid)


async def accept(listening: socket.socket) -> UnixStream:
    """The next connection of a non-blocking listening socket. Cancelling it loses none. Raises `OSError`."""
    while True:
        await anyio.lowlevel.checkpoint()
        try:
            return UnixStream(listening.accept()[0])
        except BlockingIOError:
            await _wait_until_readable(listening)


async def _wait_until_readable(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(listening, wake)
    try:
        await readable
    finally:
        loop.remove_reader(listening)
