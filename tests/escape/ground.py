"""What stands around the sandbox: bait of the suite's own, and how it is seen to be unharmed.

Looked at are only things that the suite made, and a few words of Linux that nobody changes in passing (what runs at a
crash, the host's name): other programs of the machine come and go meanwhile.
"""

import hashlib
import ipaddress
import os
import re
import resource
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from service.store.connection import Store, open_store

_BAIT = "readable and writable by everybody outside"
_WORDS_OF_LINUX = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory",
)
_MOST_GROWTH_BYTES = 192 << 20
"""Of this process while attacks run: what a flood may leave in a heap that is not given back."""


@dataclass(slots=True, kw_only=True)
class Ground:
    """All the bait of one column."""

    directory: Path
    bait: Path
    listeners: tuple[socket.socket, ...]
    process: "subprocess.Popen[bytes]"
    store: Store
    gateway_socket: Path
    calls: list[bytes] = field(default_factory=list)
    """What reached the gateway."""
    _before: dict[str, object] = field(default_factory=dict)
    _memory_bytes: int = 0

    @property
    def given(self) -> dict[str, object]:
        """What an attack is told of it."""
        port = self.listeners[0].getsockname()[1]
        return {
            "bait": str(self.bait),
            "bait_pid": self.process.pid,
            "port": port,
            "unix_listener": self.listeners[1].getsockname(),
            "abstract_listener": self.listeners[2].getsockname()[1:].decode(),
            "addresses": _own_addresses(),
            "store_directory": str(self.directory / "store"),
            "checkout": str(Path(__file__).resolve().parents[2]),
        }

    async def remember(self) -> None:
        """How it looks unharmed."""
        self._before = await self._look()
        self._memory_bytes = resident_bytes()
        restart_peak()

    async def harm(self) -> list[str]:
        """What has changed since; empty when all is well."""
        now = await self._look()
        found = [
            f"{name} changed: {self._before[name]!r} → {now[name]!r}" for name in now if now[name] != self._before[name]
        ]
        grown = peak_bytes() - self._memory_bytes
        restart_peak()
        if grown > _MOST_GROWTH_BYTES:
            found.append(f"the orchestrator grew by {grown >> 20} MiB")
        return found

    async def _look(self) -> dict[str, object]:
        stat = self.bait.stat()
        return {
            "the bait file": (
                hashlib.sha256(self.bait.read_bytes()).hexdigest(),
                stat.st_mode,
                stat.st_uid,
                stat.st_nlink,
                stat.st_mtime_ns,
            ),
            "the bait's directory": sorted(path.name for path in self.bait.parent.iterdir()),
            "who was let in by a listener": sum(_accepts(listener) for listener in self.listeners),
            "the bait process": _posture(self.process),
            "the store's keys": await _keys(self.store),
            "Linux's words": [Path(path).read_text() for path in _WORDS_OF_LINUX if Path(path).exists()],
            "the limits of the orchestrator": [
                resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
            ],
        }


def _own_addresses() -> list[str]:
    """Of this machine's network devices, bridges among them, as its own tables tell."""
    found = {"127.0.0.1", "::1"}
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            found.add(str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))))
    with suppress(OSError):  # an address stands above the lines that call it local, one for each device that has it
        address = ""
        for line in Path("/proc/net/fib_trie").read_text().splitlines():
            if "|--" in line:
                address = line.rsplit(maxsplit=1)[-1]
            elif "/32 host LOCAL" in line:
                found.add(address)
    return sorted(found)


async def _keys(store: Store) -> object:
    return [await store.read("DBSIZE"), await store.read("GET", "escape:bait")]


def _accepts(listener: socket.socket) -> int:
    found = 0
    with suppress(BlockingIOError):
        while True:
            if listener.type is socket.SOCK_STREAM:
                listener.accept()[0].close()
            else:
                listener.recv(1)
            found += 1
    return found


def _posture(process: "subprocess.Popen[bytes]") -> tuple[object, ...]:
    pid = process.pid
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return (
            "stopped" if state in "Tt" else "ended" if state in "ZX" else "alive",
            os.getpriority(os.PRIO_PROCESS, pid),
            os.sched_getaffinity(pid),
            Path(f"/proc/{pid}/oom_score_adj").read_text(),
            resource.prlimit(pid, resource.RLIMIT_NOFILE),
        )
    return ("gone",)


def descriptors() -> dict[str, int]:
    """What this process holds open, counted by kind."""
    found: dict[str, int] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            kind = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
            found[kind] = found.get(kind, 0) + 1
    return found


def size_on_disk(directory: Path) -> int:
    """Of all files below it that are still there when they are looked at."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
    return total


@asynccontextmanager
async def open_ground(directory: Path) -> AsyncIterator[Ground]:
    """Lay the bait out below `directory`, which a sandbox of another uid can pass through."""
    place = directory / "bait"
    place.mkdir(mode=0o755)
    bait = place / f"bait-{secrets.token_hex(8)}"
    bait.write_text(_BAIT)
    bait.chmod(0o666)
    with _listeners(directory) as listeners, _bait_process() as process:
        async with open_store(data_directory=directory, redis_url=None) as store:
            await store.write("SET", "escape:bait", "as it was")
            ground = Ground(
                directory=directory,
                bait=bait,
                listeners=listeners,
                process=process,
                store=store,
                gateway_socket=directory / "gateway.sock",
            )
            async with _gateway(ground):
                yield ground


@contextmanager
def _listeners(directory: Path) -> Iterator[tuple[socket.socket, ...]]:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(directory / "bait.sock"))
        (directory / "bait.sock").chmod(0o666)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0rlm-escape-{secrets.token_hex(8)}")
        for listener in (tcp, unix, abstract):
            listener.listen()
            listener.setblocking(False)
        yield tcp, unix, abstract


@contextmanager
def _bait_process() -> Iterator["subprocess.Popen[bytes]"]:
    words = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={"ESCAPE_BAIT": "secret"}) as process:
        try:
            yield process
        finally:
            process.kill()


async def _whole_request(stream: anyio.abc.SocketStream) -> bytes:
    """Head and body. Raises `anyio.EndOfStream` where whoever asks leaves before."""
    request = bytearray()
    while (end := request.find(b"\r\n\r\n")) < 0:
        request += await stream.receive()
    length = re.search(rb"content-length: (\d+)", request[:end])
    while len(request) < end + 4 + int(length[1] if length else 0):
        request += await stream.receive()
    return bytes(request)


@asynccontextmanager
async def _gateway(ground: Ground) -> AsyncIterator[None]:
    """Answers every call but those that say `parked`, which it keeps waiting."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            async with stream:
                request = await _whole_request(stream)
                if request.startswith(b"POST /host-calls "):
                    ground.calls.append(request)
                while b"parked" in request:  # until whoever asked is gone
                    await stream.receive()
                body = b'{"items": [{"ok": true, "value": "answered", "kind": "", "message": ""}]}'
                await stream.send(
                    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
                )

    listener = await anyio.create_unix_listener(str(ground.gateway_socket), mode=0o666)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
    await listener.aclose()
