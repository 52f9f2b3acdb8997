"""A bare process that measures what the machine itself can do. Standard library only, and little of it: the smaller
the process, the lower and the more honest the floors."""

import hashlib
import mmap
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence

from benchmarks.worker_loop import serve

_CHUNK = 4 << 20


def fork(count: int) -> list[float]:
    """Fork this process and hear one byte from the child."""
    seconds = []
    for _ in range(count):
        reading, writing = os.pipe()
        started = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.write(writing, b"x")
            os._exit(0)
        os.read(reading, 1)
        seconds.append(time.perf_counter() - started)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    return seconds


def echo(count: int, size_bytes: int) -> list[float]:
    """Send so many bytes to another process over a unix socket and get them back."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        here.close()
        while data := there.recv(1 << 16):
            there.sendall(data)
        os._exit(0)
    there.close()
    payload = b"x" * size_bytes
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        here.sendall(payload)
        left = size_bytes
        while left:
            left -= len(here.recv(1 << 16))
        seconds.append(time.perf_counter() - started)
    here.close()
    os.waitpid(child, 0)
    return seconds


def run(count: int, command: Sequence[str]) -> list[float]:
    """Run a command from start to end. Raises where it fails."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def map_file(count: int, path: str) -> list[float]:
    """Open a file, map it and look at its first and last byte."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            if not (mapped[0] and mapped[len(mapped) - 1]):
                raise ValueError(f"{path} is not a text")
            seconds.append(time.perf_counter() - started)
    return seconds


def copy_and_hash(count: int, source: str, target: str) -> list[float]:
    """Copy a file, hash it on the way and force it to disk."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        digest = hashlib.sha256()
        with open(source, "rb") as reading, open(target, "wb") as writing:
            while chunk := reading.read(_CHUNK):
                digest.update(chunk)
                writing.write(chunk)
            writing.flush()
            os.fsync(writing.fileno())
        seconds.append(time.perf_counter() - started)
        os.unlink(target)
    return seconds


def interrupt(count: int) -> list[float]:
    """Send SIGINT to a child that spins and wait until it is gone."""
    seconds = []
    for _ in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, b"x")
                while True:
                    pass
            except KeyboardInterrupt:
                os._exit(0)
        os.read(reading, 1)
        started = time.perf_counter()
        os.kill(child, signal.SIGINT)
        os.waitpid(child, 0)
        seconds.append(time.perf_counter() - started)
        os.close(reading)
        os.close(writing)
    return seconds


def cells(count: int, code: str, cells: int) -> list[float]:
    """Compile and execute the same code so many times, in one namespace."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        namespace: dict[str, object] = {}
        for _ in range(cells):
            exec(compile(code, "<cell>", "exec"), namespace)  # noqa: S102  # the benchmark's own line
        seconds.append(time.perf_counter() - started)
    return seconds


def idle_connections(count: int) -> int:
    """How many bytes this process grows by when so many connect to it and say nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=count) as server:
        before = _resident()
        child = os.fork()
        if child == 0:
            clients = [socket.create_connection(server.getsockname()) for _ in range(count)]
            signal.pause()
            os._exit(len(clients))
        accepted = [server.accept()[0] for _ in range(count)]
        grown = _resident() - before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for connection in accepted:
        connection.close()
    return grown


def _resident() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def memory() -> int:
    """What this process holds, as Linux shares it out (PSS)."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("Pss:"))
    return int(line.split()[1]) << 10


_OPERATIONS = (fork, echo, run, map_file, copy_and_hash, interrupt, cells, idle_connections, memory)

if __name__ == "__main__":
    serve({each.__name__: each for each in _OPERATIONS})
