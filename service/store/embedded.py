"""The embedded server: one Valkey (or Redis) per data directory, shared by every process that uses the directory.

    server.lock   held by the *server* itself: its start hands it an already locked descriptor, which the kernel
                  releases when the server is gone, however it went. "Is it alive?" is never a guess about a pid or a
                  socket file, and two servers can never write one append-only file.
    users.lock    held shared by every process for as long as it uses the server.
    door.lock     held while somebody comes or goes.

Coming: take the door, join the users; a server that is alive is adopted (even one whose starter was killed), a dead
one's socket is swept away and a new one started. Going: take the door, leave the users; if nobody is left, shut the
server down. A process that is killed leaves by the kernel's hand, and the next one that comes adopts the server.

The server is a daemon in its own session, so that Ctrl-C in a terminal does not reach it, and gets an empty
environment, so that no credential of ours is in it. It listens on a 0600 unix socket inside a 0700 directory and on
no port. A socket's address holds 107 bytes (on macOS 103), so the server binds a name relative to its own directory,
and clients whose path is longer go through `/proc/self/fd`, where there is one.

Durability: every write is in the append-only file and forced to disk before it is acknowledged, so neither killing the
server nor a power cut nor a full disk loses an acknowledged write (with a flush once a second, a full disk lost one).
One flush serves all writes that wait for it: 32 writers pay nothing, a lone one about 0.15 ms on a fast disk. What
the journal refers to (blobs) is forced to disk before the reference is written. A server that cannot write to its
file any more ends itself; it is started again at the next command and serves reads.
The file is kept as plain commands (no binary preamble), so that another version, or Redis instead of Valkey, reads it.
"""

import errno
import fcntl
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from service.store.errors import StoreFailed, disk_failed
from service.store.server_program import find_server

SOCKET = "server.sock"
LOG = "server.log"
LONGEST_ADDRESS = 103
DOOR_TIMEOUT_S = 60.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.005

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded_server(directory: Path) -> AsyncIterator["EmbeddedServer"]:
    """A running server over `directory` for the time of the block.

    Raises:
        StoreFailed: no server program was found, or it did not start; the message says why.
    """
    with _home(directory) as home, _opened(home, "users.lock") as users:
        server = EmbeddedServer(home, directory)
        async with _door(home):
            _lock(users, fcntl.LOCK_SH)
            if await _ensure_running(home, directory):
                _log.info("embedded_store_started", directory=str(directory))
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await _leave(home, directory, users)


class EmbeddedServer:
    """The server as one of its users sees it."""

    def __init__(self, home: int, directory: Path) -> None:
        self._home = home
        self._directory = directory
        self.address = _address(home, directory)
        """The path of its socket, as this process must name it."""

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self._directory}>"

    async def revive(self) -> str:
        """Start it again if it has died in use, and return what it said last; nothing if it is alive.

        Raises:
            StoreFailed: it does not come back.
        """
        async with _door(self._home):
            last_words = _last_words(self._home)
            if not await _ensure_running(self._home, self._directory):
                return ""
        _log.warning("embedded_store_died", last_words=last_words)
        return last_words


@contextmanager
def _home(directory: Path) -> Iterator[int]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fchmod(home, 0o700)
    except OSError as error:
        raise disk_failed(error, f"open the store's directory {directory}") from error
    try:
        yield home
    finally:
        os.close(home)


@contextmanager
def _opened(home: int, name: str) -> Iterator[int]:
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600, dir_fd=home)
    except OSError as error:
        raise disk_failed(error, f"open {name} in the store's directory") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    """Take or change a lock without waiting; whether it was had."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def _door(home: int) -> AsyncIterator[None]:
    with _opened(home, "door.lock") as door:
        with anyio.move_on_after(DOOR_TIMEOUT_S):
            while not _lock(door, fcntl.LOCK_EX):  # noqa: ASYNC110  another process holds it
                await anyio.sleep(_POLL_S)
        if not _lock(door, fcntl.LOCK_EX):
            raise StoreFailed(
                f"another process has been starting the embedded store for {DOOR_TIMEOUT_S:.0f} s; end it"
            )
        yield


async def _ensure_running(home: int, directory: Path) -> bool:
    """Return when a server answers, and whether it had to be started. Called with the door held."""
    was_started = False
    patience = anyio.current_time() + START_TIMEOUT_S
    while True:
        with _opened(home, "server.lock") as lock:
            if _lock(lock, fcntl.LOCK_EX):
                if was_started:
                    _refuse_full_disk(directory)
                    raise StoreFailed(f"the embedded store did not start: {_last_words(home)}")
                await anyio.to_thread.run_sync(_start, home, directory, lock)
                was_started = True
        answer = await anyio.to_thread.run_sync(_ask, _address(home, directory), b"PING\r\n")
        if answer.startswith(b"+PONG"):
            return was_started
        if answer.startswith(b"-LOADING"):
            patience = max(patience, anyio.current_time() + START_TIMEOUT_S)
        if anyio.current_time() > patience:
            raise StoreFailed(
                f"the server of the embedded store (process {_pid(home)}) is alive but does not answer; "
                f"end that process and try again; its log ends with: {_last_words(home)}"
            )
        await anyio.sleep(_POLL_S)


async def _leave(home: int, directory: Path, users: int) -> None:
    """Leave the users and shut the server down if nobody is left. Called shielded; bounded by its own deadlines."""
    async with _door(home):
        if not _lock(users, fcntl.LOCK_EX):
            # The failed attempt may or may not have kept our shared lock: let go of it in any case.
            fcntl.flock(users, fcntl.LOCK_UN)
            return
        await anyio.to_thread.run_sync(_ask, _address(home, directory), b"SHUTDOWN\r\n")
        with anyio.move_on_after(STOP_TIMEOUT_S), _opened(home, "server.lock") as lock:
            while not _lock(lock, fcntl.LOCK_EX):  # noqa: ASYNC110  another process holds it
                await anyio.sleep(_POLL_S)
            return
        _log.warning("embedded_store_still_running", remedy="the next process that uses the directory adopts it")


def _start(home: int, directory: Path, lock: int) -> None:
    """Start the daemon with the locked descriptor as its own. Blocking: until the daemon has been forked."""
    program = find_server()
    try:
        if SOCKET in os.listdir(home):
            os.unlink(SOCKET, dir_fd=home)
        if LOG in os.listdir(home) and os.stat(LOG, dir_fd=home).st_size > LONGEST_LOG_BYTES:
            os.unlink(LOG, dir_fd=home)
        started = subprocess.run(  # noqa: S603  a server program and constants
            [program, *_ARGUMENTS],
            cwd=directory,
            env={},
            umask=0o077,
            pass_fds=[lock],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StoreFailed(f"{program} did not start within {START_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise disk_failed(error, f"start {program}") from error
    if started.returncode != 0:
        said = (started.stderr or started.stdout).decode(errors="replace").strip()[-500:]
        raise StoreFailed(f"{program} did not start: {said or _last_words(home)}")


def _refuse_full_disk(directory: Path) -> None:
    """A server that cannot write its log cannot say why it ended either."""
    if os.statvfs(directory).f_bavail == 0:
        raise disk_failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "start the embedded store")


LONGEST_LOG_BYTES = 1 << 20

_ARGUMENTS = [
    *("--port", "0"),
    *("--unixsocket", SOCKET),
    *("--unixsocketperm", "600"),
    *("--dir", "."),
    *("--daemonize", "yes"),
    *("--pidfile", "server.pid"),
    *("--logfile", LOG),
    *("--loglevel", "warning"),
    *("--save", ""),
    *("--appendonly", "yes"),
    *("--appendfsync", "always"),
    *("--aof-use-rdb-preamble", "no"),
    *("--maxmemory-policy", "noeviction"),
    *("--protected-mode", "yes"),
]


def _address(home: int, directory: Path) -> str:
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return path
    if not os.path.isdir("/proc/self/fd"):
        raise StoreFailed("the data directory's path is too long for a socket on this system; choose a shorter one")
    return f"/proc/self/fd/{home}/{SOCKET}"


def _ask(address: str, command: bytes) -> bytes:
    """One exchange with the server, by hand: nothing when there is no answer. Blocking, at most two seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(2.0)
        try:
            stream.connect(address)
            stream.sendall(command)
            return stream.recv(512)
        except OSError:
            return b""


def _last_words(home: int) -> str:
    """The last line of the server's log that says something about its end."""
    with _opened(home, LOG) as log:
        os.lseek(log, max(0, os.fstat(log).st_size - 4000), os.SEEK_SET)
        lines = os.read(log, 4000).decode(errors="replace").splitlines()
    telling = [line.rpartition(" # ")[2] for line in lines if line and "overcommit" not in line]
    return telling[-1][:300] if telling else "nothing in its log"


def _pid(home: int) -> str:
    with _opened(home, "server.pid") as file:
        return os.read(file, 32).decode(errors="replace").strip() or "unknown"
