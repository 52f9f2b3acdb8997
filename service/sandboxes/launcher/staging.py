"""Session directories as the engine is told of them, where a client of another uid owns what stands around them.

Between the launcher's look at a session directory and the engine's mount of its path, the client could put a link in
its place, and so see any directory of the machine in a sandbox. Therefore the engine is given another path: in a
directory of the launcher's own, where what was opened and looked at is mounted for as long as the container starts.
The container has a mount of its own then.
"""

import ctypes
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.sandboxes.docker_profile import SESSION

PLACE = Path("/run/rlm-launcher")
"""Where neither side says another."""

_MS_BIND = 0x1000
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)


class NotStaged(Exception):
    """The session directory cannot be handed to the engine safely; the message says why and what to do."""


@contextmanager
def opened_session(sessions: Path, sandbox_id: str, client_uid: int) -> Iterator[int]:
    """The session directory itself, whatever its name stands for later. Raises `NotStaged`."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        parent = os.open(sessions, flags)
        try:
            descriptor = os.open(sandbox_id, flags, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as exc:
        raise NotStaged(
            f"expected the session directory {sessions / sandbox_id}, found none ({exc.strerror}): do both sides mount "
            "the same path?"
        ) from exc
    try:
        if (found := os.fstat(descriptor).st_uid) != client_uid:
            raise NotStaged(f"expected a session directory of uid {client_uid}, found one of uid {found}")
        yield descriptor
    finally:
        os.close(descriptor)


class Stage:
    """A directory of this launcher, locked while it lives. Only root may mount, so only root has one."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._own: Path | None = None
        self._lock = -1

    @contextmanager
    def mounted(self, session: int) -> Iterator[Path]:
        """The path of the open directory `session` inside the block. Raises `NotStaged`."""
        try:
            target = Path(tempfile.mkdtemp(dir=self._opened()))
        except OSError as exc:
            raise NotStaged(f"no directory can be made in {self._place}: {exc.strerror}") from exc
        try:
            _mount(session, target)
            yield target
        finally:
            _unmount(target)

    def close(self) -> None:
        """Take it away. Idempotent."""
        if self._own is not None:
            _clear(self._own)
            os.close(self._lock)
            self._own = None

    def _opened(self) -> Path:
        if self._own is None:
            with suppress(FileExistsError):
                self._place.mkdir(mode=0o700)
            found = self._place.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise NotStaged(f"expected {self._place} to be a directory of uid {os.geteuid()} with mode 0700")
            with _locked(self._place):  # nobody else may take ours for a dead launcher's before it is locked
                self._clear_dead()
                own = Path(tempfile.mkdtemp(dir=self._place))
                self._lock = _opened_and_locked(own, fcntl.LOCK_EX)
            self._own = own
        return self._own

    def _clear_dead(self) -> None:
        """What launchers left that were killed while a container started."""
        for left in self._place.iterdir():
            with suppress(OSError), _locked(left, fcntl.LOCK_NB):
                _clear(left)

    def __repr__(self) -> str:
        return f"<Stage at {self._own or self._place}>"


@contextmanager
def _locked(directory: Path, flags: int = 0) -> Iterator[None]:
    lock = _opened_and_locked(directory, fcntl.LOCK_EX | flags)
    try:
        yield
    finally:
        os.close(lock)


def _opened_and_locked(directory: Path, flags: int) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_seen(pid: int, session: int) -> None:
    """Whether a container's first process has the open directory `session` before it, where Linux can tell (not of
    gVisor's, and not of one that has ended). Raises `NotStaged`."""
    try:
        seen = os.stat(f"/proc/{pid}/root{SESSION}")
    except OSError:
        return
    if not os.path.samestat(seen, os.fstat(session)):
        raise NotStaged(
            "the sandbox was given another directory than its session's, and was ended: run the launcher and the "
            "Docker engine in one mount namespace, or share the mounts in the launcher's --stage, so that the engine "
            "sees them"
        )


def _mount(session: int, target: Path) -> None:
    source = f"/proc/self/fd/{session}".encode()
    if _libc.mount(source, os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise NotStaged(
            f"the session directory cannot be mounted for the engine ({reason}): a launcher with a client of another "
            "uid needs to be root with CAP_SYS_ADMIN; or run it as the client's uid"
        )


def _unmount(target: Path) -> None:
    with suppress(OSError):
        _libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        target.rmdir()  # never what is mounted there: a mount that stays makes this fail


def _clear(own: Path) -> None:
    for target in own.iterdir():
        _unmount(target)
    own.rmdir()
