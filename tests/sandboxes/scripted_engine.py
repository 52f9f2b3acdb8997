"""An engine that does what it is asked in a tenth of a millisecond and starts nothing: for tests of who may ask.

It keeps what it was told, and can be made to wait in the middle of a `create`.
"""

import itertools
import json
import os
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

PATIENCE_S = 60


class ScriptedEngine(ThreadingUnixStreamServer):
    """Serves one unix socket, each connection on a thread of its own."""

    daemon_threads = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Connection)
        self.created: dict[str, dict[str, Any]] = {}
        """Container id → what it was to be made of."""
        self.removed: set[str] = set()
        self.paused: set[str] = set()
        self.mounted: list[tuple[int, int]] = []
        """Device and inode of what each session directory's path stood for when the container was made."""
        self.parks: str | None = None
        """The sandbox in whose creation it waits for `may_go_on`."""
        self.is_creating = threading.Event()
        self.may_go_on = threading.Event()
        self.is_closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self.measured = 0
        """How often it was asked what a container uses."""
        self._numbers = itertools.count(1)
        self._one_change = threading.Lock()

    def create(self, name: str, profile: dict[str, Any]) -> str:
        """The new container's id."""
        if self.parks is not None and name == f"rlm-{self.parks}":
            self.is_creating.set()
            self.may_go_on.wait(PATIENCE_S)
        (mount,) = profile["HostConfig"]["Mounts"]
        found = os.stat(mount["Source"])
        with self._one_change:
            container_id = f"{next(self._numbers):064x}"
            self.created[container_id] = profile
            self.mounted.append((found.st_dev, found.st_ino))
        return container_id

    def turn(self, container_id: str, *, is_paused: bool) -> bool:
        """Pause it, or let it go on; False where it is so already."""
        with self._one_change:
            if (container_id in self.paused) == is_paused:
                return False
            self.paused ^= {container_id}
            return True

    def running(self) -> list[dict[str, Any]]:
        """As the engine lists them."""
        with self._one_change:
            return [
                {"Id": container_id, "State": "running", "Labels": profile["Labels"]}
                for container_id, profile in self.created.items()
                if container_id not in self.removed
            ]

    def sandboxes(self) -> list[str]:
        """Of the containers that run."""
        return [container["Labels"]["rlm.sandbox"] for container in self.running()]


@contextmanager
def scripted_engine(directory: Path) -> Iterator[ScriptedEngine]:
    """Serves `directory/engine.sock` inside the block."""
    with ScriptedEngine(directory / "engine.sock") as engine:
        serving = threading.Thread(target=engine.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield engine
        finally:
            engine.is_closing.set()
            engine.may_go_on.set()
            engine.shutdown()
            for connection in engine.connections.copy():  # one that is kept open for another request
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            serving.join()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedEngine

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urllib.parse.urlsplit(self.path).path
        if path.endswith("/events"):
            self._hold()
        elif path.endswith("/containers/json"):
            self._answer(200, self.server.running())
        elif path.endswith("/stats"):
            self.server.measured += 1
            self._answer(200, {"memory_stats": {"usage": 1 << 20}, "pids_stats": {"current": 3}})
        elif "/containers/" in path:
            container_id = path.split("/")[-2]
            state = {"Pid": 0, "Running": container_id not in self.server.removed}
            self._answer(200, {"State": state | {"Paused": container_id in self.server.paused}})
        elif "/images/" in path:
            self._answer(200, {"Config": {"Labels": {}}})
        elif path.endswith("/info"):
            security = ["name=seccomp,profile=default"]
            self._answer(200, {"ServerVersion": "0", "Runtimes": {"runc": {}}, "SecurityOptions": security})
        else:
            self._answer(200, {"ApiVersion": "1.41"})

    def do_POST(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if url.path.endswith("/containers/create"):
            (name,) = urllib.parse.parse_qs(url.query)["name"]
            self._answer(201, {"Id": self.server.create(name, json.loads(body)), "Warnings": []})
        elif url.path.endswith(("/pause", "/unpause")):
            container_id, action = url.path.split("/")[-2:]
            if self.server.turn(container_id, is_paused=action == "pause"):
                self._answer(204, None)
            else:
                self._answer(
                    409, {"message": f"Container {container_id} is {'already' if action == 'pause' else 'not'} paused"}
                )
        else:
            self._answer(204, None)

    def do_DELETE(self) -> None:
        self.server.removed.add(urllib.parse.urlsplit(self.path).path.rpartition("/")[2])
        self._answer(204, None)

    def _answer(self, status: int, value: object) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hold(self) -> None:
        """A stream of events in which nothing happens."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        self.server.is_closing.wait(PATIENCE_S * 10)
        self.close_connection = True
