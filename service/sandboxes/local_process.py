"""A sandbox that runs as a process of this machine: started, recognised, measured and ended from outside."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.abc
import structlog

from service.sandboxes.directory import ProcessRecord, read_process_record, write_process_record
from service.sandboxes.port import Measured, SandboxStartFailed
from service.sandboxes.process_table import Identity
from service.sandboxes.processes import KILL_DEADLINE_S, boot_id, identify, kill_tree, measured

STATUS_DEADLINE_S = 15.0
"""For bubblewrap to have made its namespaces."""
_MAX_STATUS_BYTES = 4096
_LAST_WORDS_CHARS = 600

_log = structlog.get_logger(__name__)


class LocalProcess:
    """Implements `port.Process`."""

    def __init__(self, process: anyio.abc.Process, stderr: int, session: Path, dialler_uid: int) -> None:
        self._process = process
        self._dialler_uid = dialler_uid
        self._stderr = stderr
        self._session = session
        self._tree: list[Identity] = []
        self._one_kill = anyio.Lock()
        self._last_words: str | None = None

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    @property
    def dialler_uid(self) -> int:
        """See `port.Process.dialler_uid`. In a user namespace of its own the sandbox is ours to the outside."""
        return self._dialler_uid

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(identity.pid for identity in self._tree)

    def answers_for(self, identity: Identity) -> None:
        """Count a process, with everything below it, to the sandbox; on disk too, for the reaper."""
        self._tree.append(identity)
        processes = tuple((known.pid, known.started) for known in self._tree)
        write_process_record(self._session, ProcessRecord(boot_id=boot_id(), processes=processes))

    async def wait(self) -> str:
        """How it ended, with what it wrote to its error stream last. Raises nothing."""
        status = await self._process.wait()
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        return f"{how}, {self._words() or 'without a word'}"

    async def pause(self) -> bool:
        """See `port.Process.pause`. One that waits takes no processor time; there is nothing to gain."""
        return False

    async def unpause(self) -> None:
        """See `port.Process.unpause`. It is never paused."""

    async def measure(self) -> Measured | None:
        """See `port.Process.measure`."""
        try:
            return measured(self.pids) if self.is_running else None
        except SandboxStartFailed:  # nothing is told of processes here
            return None

    async def kill(self) -> None:
        """All of the tree, from the inside out: what a dying parent would orphan is dead before it."""
        with anyio.CancelScope(shield=True):
            async with self._one_kill:
                for identity in reversed(self._tree):
                    if not await kill_tree(identity):
                        _log.error("sandbox_process_hangs", pid=identity.pid)
                with anyio.move_on_after(KILL_DEADLINE_S):
                    await self._process.wait()
                self._words()

    def _words(self) -> str:
        """Read once what waits in the pipe, then close it: nobody drains it, so the sandbox can fill it and no more."""
        if self._last_words is None:
            self._last_words = _printable(_waiting_bytes(self._stderr))
            os.close(self._stderr)
        return self._last_words

    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended ({self._process.returncode})"
        return f"<LocalProcess {'/'.join(str(pid) for pid in self.pids)} {state}>"


class Pipes:
    """The ends of the pipes that a starting sandbox writes to."""

    def __init__(self) -> None:
        self.stderr_read, self.stderr_write = os.pipe()
        self.status_read, self.status_write = os.pipe()
        os.set_blocking(self.stderr_read, False)
        os.set_blocking(self.status_read, False)
        self._open = {self.stderr_read, self.stderr_write, self.status_read, self.status_write}

    def close(self, *descriptors: int) -> None:
        for descriptor in self._open.intersection(descriptors):
            os.close(descriptor)
            self._open.discard(descriptor)

    def hand_over(self, descriptor: int) -> int:
        """Somebody else closes it from now on."""
        self._open.discard(descriptor)
        return descriptor

    def close_all(self) -> None:
        self.close(*self._open)


@contextmanager
def open_pipes() -> Iterator[Pipes]:
    """Both pipes; what was not handed over is closed at the end."""
    pipes = Pipes()
    try:
        yield pipes
    finally:
        pipes.close_all()


async def start_process(
    arguments: Sequence[str],
    environment: dict[str, str],
    session: Path,
    pipes: Pipes,
    *,
    uid: int | None,
    tells_inner_pid: bool,
) -> LocalProcess:
    """Start the command and remember on disk which processes it is, before anything can be left behind. `uid` is what
    it makes itself, if it does.

    Runs in the event loop's thread on purpose: the operating system ends bubblewrap when the *thread* that started it
    ends (PR_SET_PDEATHSIG, prctl(2)).

    Raises:
        SandboxStartFailed: the command could not be started, or ended at once.
    """
    try:
        process = await anyio.open_process(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=pipes.stderr_write,
            cwd="/",
            env=environment,
            start_new_session=True,
            pass_fds=(pipes.status_write,) if tells_inner_pid else (),
        )
    except OSError as exc:
        raise SandboxStartFailed(f"expected to start {arguments[0]}: {exc.strerror}") from exc
    pipes.close(pipes.stderr_write, pipes.status_write)
    dialler_uid = os.geteuid() if uid is None else uid
    started = LocalProcess(process, pipes.hand_over(pipes.stderr_read), session, dialler_uid)
    try:
        if (outer := identify(process.pid)) is not None:
            started.answers_for(outer)
        if tells_inner_pid:
            started.answers_for(await _inner_process(pipes.status_read, started))
    except BaseException:
        await started.kill()
        raise
    return started


async def reap_processes(session: Path) -> None:
    """End what a dead replica left running for a session directory, if it is still the same processes."""
    record = read_process_record(session)
    if record is None or record.boot_id != boot_id():
        return
    for pid, started in reversed(record.processes):
        if await kill_tree(Identity(pid=pid, started=started)):
            continue
        _log.error("sandbox_process_hangs", pid=pid)


async def _inner_process(status: int, started: LocalProcess) -> Identity:
    """The process that bubblewrap reports: the first one inside."""
    said = b""
    with anyio.move_on_after(STATUS_DEADLINE_S):
        while len(said) < _MAX_STATUS_BYTES and not said.rstrip().endswith(b"}"):
            await anyio.wait_readable(status)
            piece = os.read(status, _MAX_STATUS_BYTES)
            if not piece:
                break
            said += piece
    try:
        pid = int(json.loads(said)["child-pid"])
    except (ValueError, KeyError, TypeError):
        how = await _how_it_ended(started)
        raise SandboxStartFailed(f"bubblewrap did not make a sandbox: {how}") from None
    inner = identify(pid)
    if inner is None:
        raise SandboxStartFailed(f"the sandbox ended as it started: {await _how_it_ended(started)}")
    return inner


async def _how_it_ended(started: LocalProcess) -> str:
    with anyio.move_on_after(1.0):
        return await started.wait()
    return "it hangs"


def _waiting_bytes(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""


def _printable(words: bytes) -> str:
    text = words.decode(errors="replace")
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line[-_LAST_WORDS_CHARS:]
