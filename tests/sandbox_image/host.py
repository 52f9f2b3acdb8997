"""A host in two hundred lines: starts a real supervisor, accepts the streams it dials, speaks HTTP to it.

Plain sockets and `http.client`, on purpose: these tests must not share code with the service's own side.
"""

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import queue
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox_image.protocol import DIAL_PROOF_LABEL, GENERATION_HEADER
from tests.machine import READABLE_PYTHON

IMAGE = Path(__file__).resolve().parents[2] / "sandbox_image"
GRANT = "grant-of-the-test"
PATIENCE_S = 60.0
Gateway = Callable[[dict[str, Any], str], tuple[int, Any]]


class SandboxEnded(Exception):
    """The supervisor is gone."""


@dataclass
class Answered:
    """A response."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Host:
    """A started sandbox. `request` speaks to it on a lane; a lane whose stream is gone waits for the redial."""

    directory: Path
    process: subprocess.Popen[bytes]
    listener: socket.socket
    generation: int = 7
    secret: str = ""
    streams: dict[str, "queue.Queue[socket.socket]"] = field(
        default_factory=lambda: {"cells": queue.Queue(), "control": queue.Queue()}
    )
    held: dict[str, socket.socket] = field(default_factory=dict)
    cells: int = 0
    accepting: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.accepting = threading.Thread(target=self.accept_streams, daemon=True)

    def accept_streams(self) -> None:
        """Runs on a thread until the listener closes."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE_S)
            try:
                self.streams[self.greet(connection)].put(connection)
            except (OSError, ValueError):
                connection.close()

    def greet(self, connection: socket.socket) -> str:
        hello = _read_json_line(connection)
        if not self.secret:
            self.secret = os.urandom(32).hex()
            connection.sendall(json.dumps({"secret": self.secret}).encode() + b"\n")
        else:
            nonce = os.urandom(16).hex()
            connection.sendall(json.dumps({"nonce": nonce}).encode() + b"\n")
            proof = _read_json_line(connection)["proof"]
            message = DIAL_PROOF_LABEL + bytes.fromhex(nonce)
            expected = hmac.new(bytes.fromhex(self.secret), message, hashlib.sha256).hexdigest()
            if proof != expected:
                connection.close()
                raise ValueError("wrong proof")
        return str(hello["lane"])

    def stream(self, lane: str) -> socket.socket:
        if lane not in self.held:
            self.held[lane] = self.streams[lane].get(timeout=PATIENCE_S)
        return self.held[lane]

    def drop(self, lane: str) -> None:
        """Close the lane's stream under whatever is on it."""
        connection = self.held.pop(lane)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def send(self, lane: str, method: str, path: str, body: Any = None, generation: int | None = None) -> None:
        """The request alone."""
        encoded = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: sandbox\r\n{GENERATION_HEADER}: {generation or self.generation}\r\n"
            f"content-length: {len(encoded)}\r\n\r\n"
        )
        self.stream(lane).sendall(head.encode() + encoded)

    def receive(self, lane: str) -> Answered:
        response = http.client.HTTPResponse(self.stream(lane))
        response.begin()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answered(response.status, body, headers)

    def request(self, method: str, path: str, body: Any = None, lane: str = "control", **more: Any) -> Answered:
        for attempt in (0, 1):
            try:
                self.send(lane, method, path, body, **more)
                return self.receive(lane)
            except (ConnectionError, http.client.HTTPException):
                self.drop(lane)
                if attempt or self.process.poll() is not None:
                    raise SandboxEnded(f"exit code {self.process.poll()}") from None
        raise AssertionError

    def claim(self, **more: Any) -> dict[str, Any]:
        wanted = {
            "generation": self.generation,
            "grant": GRANT,
            "random_seed": 11,
            "memory_bytes": 1 << 30,
            "processes": 64,
            "file_bytes": 64 << 20,
        }
        answered = self.request("POST", "/claim", wanted | more)
        assert answered.status == 200, answered.body
        reply: dict[str, Any] = answered.json
        return reply

    def bind_text(self, name: str, text: bytes, *, aliases: tuple[str, ...] = ()) -> Answered:
        file = self.place(name, text)
        binding = {"name": name, "kind": "text", "files": [file], "aliases": list(aliases)}
        return self.request("POST", "/bind", {"bindings": [binding]})

    def place(self, name: str, content: bytes) -> dict[str, Any]:
        """A file under `contexts/`, as a BoundFile."""
        path = self.directory / "contexts" / name
        path.write_bytes(content)
        path.chmod(0o444)
        return {"part": name, "file": name, "size_bytes": len(content)}

    def cell_body(self, code: str, **more: Any) -> dict[str, Any]:
        return {"code": code, "active_limit_s": 30.0, "wall_limit_s": 60.0, "grace_s": 5.0} | more

    def next_cell_id(self) -> str:
        self.cells += 1
        return f"run_x.t{self.cells}.b0"

    def run(self, code: str, *, cell_id: str | None = None, **more: Any) -> dict[str, Any]:
        """One cell; its reply."""
        answered = self.request(
            "PUT", f"/cells/{cell_id or self.next_cell_id()}", self.cell_body(code, **more), lane="cells"
        )
        assert answered.status == 200, answered.body
        reply: dict[str, Any] = answered.json
        return reply

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression."""
        reply = self.run(f"import json as _json; print(_json.dumps({expression}))")
        assert reply["status"] == "ok", reply
        return json.loads(reply["stdout"]["head"])

    def value(self, name: str, form: str = "text", limit: int = 1 << 30) -> Answered:
        return self.request("GET", f"/values/{name}?as={form}&limit={limit}")

    def wait_ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def wait_stat(self, name: str, value: Any) -> None:
        """Until `/stats` says so."""
        while self.request("GET", "/stats").json[name] != value:
            assert self.process.poll() is None

    def stop_listening(self) -> None:
        """No stream is accepted any more, and none that was dialled is left in the queue."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(PATIENCE_S)
        self.listener.close()
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "sandbox.sock").unlink()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stop_listening()
        for lane in list(self.held):
            self.drop(lane)
        for waiting in self.streams.values():
            while not waiting.empty():
                waiting.get().close()
        shutil.rmtree(self.directory.parent)


def _read_json_line(connection: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ValueError("ended within the preface")
        line += byte
    preface: dict[str, Any] = json.loads(line)
    return preface


def alive(host: Host) -> None:
    """The sandbox runs cells."""
    assert host.run("print('alive')")["stdout"]["head"] == "alive\n"


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def python_for(uid: int | None) -> str:
    """An interpreter that the uid can read: the one of these tests may live in somebody's home."""
    return os.path.realpath(sys.executable) if uid is None else str(READABLE_PYTHON)


@contextlib.contextmanager
def start_host(
    *arguments: str,
    uid: int | None = None,
    landlock: bool = True,
    patience_s: int = 30,
    started_by: tuple[str, ...] = (),
    python: str | None = None,
    program: tuple[str, ...] = (str(IMAGE / "__main__.py"),),
) -> Iterator[Host]:
    """A supervisor, confined by itself, dialled and not yet claimed. `started_by` is put before its command line;
    `program` is what the interpreter is told to run."""
    place = Path(tempfile.mkdtemp(prefix="sandbox_image-"))
    place.chmod(0o755)
    directory, tmp = place / "session", place / "tmp"
    for made in (directory, directory / "contexts", tmp):
        made.mkdir()
    tmp.chmod(0o777)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "sandbox.sock"))
    (directory / "sandbox.sock").chmod(0o777)
    listener.listen(8)
    words = [
        python or python_for(uid),
        "-P",
        "-s",
        "-S",
        "-B",
        *program,
        "--session-directory",
        str(directory),
    ]
    words += ["--tmp", str(tmp), "--host-patience-s", str(patience_s), *arguments]
    words += ["--confine", "landlock"] if landlock else []
    words += [] if uid is None else ["--uid", str(uid), "--gid", str(uid)]
    process = subprocess.Popen(
        [*started_by, *words],
        env={"PYTHONPATH": str(IMAGE.parent), "PYTHONHASHSEED": "1"},
        stdin=subprocess.DEVNULL,
        stderr=sys.__stderr__,
        start_new_session=True,
    )
    host = Host(directory, process, listener)
    host.accepting.start()
    try:
        yield host
    finally:
        host.close()


class GatewayServer:
    """A gateway of one function, on `gateway.sock` of a host's directory."""

    def __init__(self, directory: Path, answer: Gateway) -> None:
        self.requests: list[dict[str, Any]] = []
        self.grants: list[str] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "gateway.sock"))
        (directory / "gateway.sock").chmod(0o777)
        self._listener.listen(128)
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                thread.start()
                self._threads.append(thread)
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            while not self._closing.is_set():
                if not select.select([connection], [], [], 0.05)[0]:
                    continue
                if not reader.readline():
                    return
                headers = http.client.parse_headers(reader)
                request = json.loads(reader.read(int(headers["content-length"])))
                self.requests.append(request)
                self.grants.append(headers["authorization"])
                status, reply = self._answer(request, headers["authorization"])
                if status == 0:
                    return
                body = json.dumps(reply).encode()
                head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n"
                with contextlib.suppress(OSError):
                    connection.sendall(head.encode() + body)

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def echo_gateway(request: dict[str, Any], _grant: str) -> tuple[int, Any]:
    """Every prompt comes back in capitals; a prompt `fail` fails."""
    if request["function"] == "budget":
        return 200, {"items": [{"ok": True, "value": {"usd": 1.5}}]}
    return 200, {
        "items": [
            {"ok": False, "value": None, "kind": "timed_out", "message": "the model took too long"}
            if prompt == "fail"
            else {"ok": True, "value": prompt.upper(), "kind": "", "message": ""}
            for prompt in request["arguments"]["prompts"]
        ]
    }
