"""An engine whose `runsc` is runc: a relay in front of the real one, that swaps that word in containers' profiles."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer

from tests.machine import DOCKER_HOST

_ASKED = b'"Runtime": "runsc"'
_GIVEN = b'"Runtime": "runc" '
"""As long, so that the length of the body stays true."""


class _Relay(ThreadingUnixStreamServer):
    daemon_threads = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Connection)
        self.open: set[socket.socket] = set()
        self.swapped = 0
        """How many containers were made of another runtime than was asked for."""


class _Connection(BaseRequestHandler):
    request: socket.socket
    server: _Relay

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(DOCKER_HOST.removeprefix("unix://"))
            self.server.open |= {self.request, engine}
            answers = threading.Thread(target=_copy, args=(engine, self.request))
            answers.start()
            try:
                self._ask(engine)
            finally:
                for each in (engine, self.request):
                    with suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                answers.join()
                self.server.open -= {self.request, engine}

    def _ask(self, engine: socket.socket) -> None:
        held = b""
        with suppress(OSError):
            while received := self.request.recv(1 << 16):
                whole = held + received
                self.server.swapped += whole.count(_ASKED)
                whole = whole.replace(_ASKED, _GIVEN)
                kept = next(n for n in range(len(_ASKED) - 1, -1, -1) if whole.endswith(_ASKED[:n]))
                held = whole[len(whole) - kept :]
                engine.sendall(whole[: len(whole) - kept])


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while received := source.recv(1 << 16):
            target.sendall(received)


@contextmanager
def misnamed_runtime(path: Path) -> Iterator[_Relay]:
    """Serves the engine at `path` inside the block."""
    with _Relay(path) as relay:
        serving = threading.Thread(target=relay.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            for connection in relay.open.copy():
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            serving.join()
