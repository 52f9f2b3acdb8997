"""The session directory: the only thing host and sandbox share.

    <data>/sessions/<sandbox id>/            0711, or closed to all but the sandbox; it sees it read-only
        sandbox.sock                         the host's listener; the sandbox dials it
        gateway.sock                         a hard link of the gateway's listening socket
        contexts/                            hard links of 0444 blobs
    <data>/sessions/<sandbox id>.owner       0600, locked (flock) while the replica that owns it lives
    <data>/sessions/<sandbox id>.process     0600, which processes to end when the owner is gone
    <data>/sessions/<sandbox id>.tmp/        0700, writable to the sandbox, where it has no tmpfs of its own

The files stand beside the directory, not in it: code of the same uid could open and lock what it can see, and
so keep the reaper away for ever.

Its path may be longer than a socket's address: `socket_path` has a shorter one.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from sandbox_image.protocol import CONTEXTS_DIRECTORY, GATEWAY_SOCKET
from service.errors import BadRequest, RlmServiceError
from service.ids import SandboxId, is_id
from service.sandboxes.tree_removal import remove_tree
from service.store.errors import disk_failed

_log = structlog.get_logger(__name__)

_LINK_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\Z")
_MAX_PROCESS_RECORD_BYTES = 4096
_OWNER_SUFFIX = ".owner"
_LOOK_ONLY = getattr(os, "O_PATH", os.O_RDONLY)
"""Without the right to read, where the system has that."""
_LOOK_ONLY_AT_FILE = getattr(os, "O_PATH", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
"""Of a file that is to be locked. Elsewhere it is opened at once, which changes nothing and waits for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """Enough to recognise processes later: a pid alone may meanwhile be somebody else's."""

    boot_id: str
    processes: tuple[tuple[int, int], ...]
    """(pid, start time in clock ticks after boot)"""


class SessionDirectory:
    """One sandbox's directory, owned by this replica for as long as `_owner_lock` is open."""

    def __init__(self, path: Path, owner_lock: int) -> None:
        self.path = path
        self._owner_lock: int | None = owner_lock

    def link_contexts(self, files: Mapping[str, Path]) -> None:
        """Make blobs visible to the sandbox under bare file names. Idempotent for the same name and blob.

        Blocks on the file system; call it from a worker thread.

        Raises:
            BadRequest: a name is not a bare file name, or stands for another blob already.
            RlmServiceError: the blob cannot be hard-linked from where it is.
        """
        for name, blob in files.items():
            if not _LINK_NAME.match(name):
                raise BadRequest(f"a context file needs a bare file name of [A-Za-z0-9._-], found {name[:80]!r}")
            _hard_link(blob, self.path / CONTEXTS_DIRECTORY / name)

    def unlink_context(self, name: str) -> None:
        """Take one of those names away again. Idempotent; blocks on the file system."""
        if _LINK_NAME.match(name):
            with suppress(OSError):  # the directory may be gone with its sandbox
                (self.path / CONTEXTS_DIRECTORY / name).unlink()

    def link_gateway(self, gateway_socket: Path) -> None:
        """Make the gateway's listening socket visible to the sandbox."""
        _hard_link(gateway_socket, self.path / GATEWAY_SOCKET)

    def remove(self) -> None:
        """Remove everything, then let go of the ownership. Idempotent; blocks on the file system."""
        if self._owner_lock is None:
            return
        descriptor, self._owner_lock = self._owner_lock, None
        try:
            remove_session(self.path)
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"<SessionDirectory {self.path} {'removed' if self._owner_lock is None else 'owned'}>"


def create_session_directory(sessions: Path, sandbox_id: SandboxId) -> SessionDirectory:
    """Create `sessions/<sandbox_id>` and own it. Blocks on the file system.

    Raises:
        StoreFailed: the disk is full, read-only or denied.
    """
    if not is_id(sandbox_id, "sbx"):
        raise BadRequest(f"a session directory is named by a sandbox id (sbx_…), found {sandbox_id[:80]!r}")
    try:
        return _create(sessions, sandbox_id)
    except OSError as exc:
        raise disk_failed(exc, f"make a session directory in {sessions}") from exc


def _create(sessions: Path, sandbox_id: SandboxId) -> SessionDirectory:
    sessions.mkdir(parents=True, exist_ok=True)
    path = sessions / sandbox_id
    owner_lock = _own(_owner_file(path))
    try:
        for directory in (path, path / CONTEXTS_DIRECTORY):
            directory.mkdir(mode=0o711)
            directory.chmod(0o711)  # whatever the umask says
    except BaseException:
        remove_session(path)
        os.close(owner_lock)
        raise
    return SessionDirectory(path, owner_lock)


def close_to_others(session: Path, gid: int | None) -> None:
    """Let nobody but us, and the sandbox's own group where it has one, into a session directory: its name is no
    secret, process lists show it."""
    for path in (session, session / CONTEXTS_DIRECTORY):
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(0o700 if gid is None else 0o710)


def let_pass(top: Path, *below: Path) -> None:
    """Let sandboxes of another uid pass, blindly, through our directories from `top` down to where `below` stand."""
    for path in below:
        for directory in path.parents:
            if directory != top and top not in directory.parents:
                break
            mode = stat.S_IMODE(directory.stat().st_mode)
            if mode & 0o011 != 0o011:
                directory.chmod(mode | 0o011)


def write_process_record(session: Path, record: ProcessRecord) -> None:
    """Remember which processes belong to the session directory, durably enough for `kill -9` of this replica.

    Raises:
        StoreFailed: the disk is full, read-only or denied.
    """
    path = _process_file(session)
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(json.dumps({"boot_id": record.boot_id, "processes": record.processes}))
        new.chmod(0o600)
        new.replace(path)
    except OSError as exc:
        raise disk_failed(exc, f"write to {path.parent}") from exc


def read_process_record(session: Path) -> ProcessRecord | None:
    """What `write_process_record` wrote; None when there is nothing (readable)."""
    try:
        with _process_file(session).open("rb") as file:
            found = json.loads(file.read(_MAX_PROCESS_RECORD_BYTES))
        return ProcessRecord(
            boot_id=str(found["boot_id"]),
            processes=tuple((int(pid), int(started)) for pid, started in found["processes"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tmp_directory(session: Path) -> Path:
    """The place for a sandbox's own files, where its level has no tmpfs. Not made by `create_session_directory`."""
    return session.with_name(session.name + ".tmp")


def remove_session(session: Path) -> None:
    """Remove a session directory and what stands beside it, the owner file last. Idempotent."""
    if not (remove_tree(tmp_directory(session)) and remove_tree(session)):
        _log.warning("session_directory_not_removed", session=str(session))
        return  # its owner file stays, so that a reaper tries again
    _process_file(session).unlink(missing_ok=True)
    _owner_file(session).unlink(missing_ok=True)


def sessions_in(sessions: Path) -> list[Path]:
    """The session directories there are or were: of each directory and of each file beside one."""
    try:
        names = os.listdir(sessions)
    except FileNotFoundError:
        return []
    ids = {name.partition(".")[0] for name in names}
    return [sessions / found for found in sorted(ids) if is_id(found, "sbx")]


@contextmanager
def orphaned(session: Path, *, owner_uid: int | None = None) -> Iterator[bool]:
    """Whether the session's owner is dead; if so, this replica owns it inside the block.

    The directory of sessions may be another uid's, who may put anything there at any moment: nothing is created, no
    link is followed, and nothing but a plain file (of `owner_uid`, where one is given) or a directory is opened.
    """
    with ExitStack() as opened:
        try:
            sessions = opened.enter_context(_opened(session.parent, _LOOK_ONLY | os.O_DIRECTORY))
            found = _lockable(opened, sessions, session.name, owner_uid)
        except OSError:
            found = None
        yield found is not None and _lock_without_waiting(found[0]) and _is_still(*found, sessions)


def disown(session: Path) -> None:
    """Say that the owner is dead, inside the block of `orphaned`: who looks meanwhile finds the lock taken, by us."""
    with suppress(FileNotFoundError):
        os.truncate(_owner_file(session), 0)


def is_disowned(session: Path) -> bool:
    """Whether that was said, or the owner file is gone, which goes last. No sandbox runs before its owner has written
    to the file. No link is followed."""
    try:
        status = os.lstat(_owner_file(session))
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _lockable(opened: ExitStack, sessions: int, name: str, owner_uid: int | None) -> tuple[int, str] | None:
    """What the session's owner would hold a lock of, opened, and its name. The directory itself, where it has lost its
    owner file: one that could not be removed the first time."""
    try:
        path = opened.enter_context(_opened(name + _OWNER_SUFFIX, _LOOK_ONLY_AT_FILE, sessions))
    except FileNotFoundError:
        return opened.enter_context(_opened(name, os.O_RDONLY | os.O_DIRECTORY, sessions)), name
    status = os.fstat(path)
    if not stat.S_ISREG(status.st_mode) or owner_uid not in {None, status.st_uid}:
        return None
    if _LOOK_ONLY_AT_FILE & os.O_RDWR:
        return path, name + _OWNER_SUFFIX
    # The very file that was looked at, whatever its name stands for by now.
    file = os.open(f"/proc/self/fd/{path}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    opened.callback(os.close, file)
    return file, name + _OWNER_SUFFIX


@contextmanager
def _opened(path: Path | str, flags: int, directory: int | None = None) -> Iterator[int]:
    """No link is followed in the last place."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _own(owner_file: Path) -> int:
    """Create and lock the owner file. A reaper may see it between the two and take it for a dead replica's: again."""
    for _ in range(100):
        descriptor = os.open(owner_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _lock_without_waiting(descriptor) and _is_still(descriptor, owner_file, None):
            os.write(descriptor, f"{os.getpid()}\n".encode())  # for people: the lock is what counts
            return descriptor
        os.close(descriptor)
    raise RlmServiceError(f"expected to own {owner_file}, found it locked: is the sandbox id in use twice?")


def _lock_without_waiting(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(descriptor: int, path: Path | str, directory: int | None) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _owner_file(session: Path) -> Path:
    return session.with_name(session.name + _OWNER_SUFFIX)


def _process_file(session: Path) -> Path:
    return session.with_name(session.name + ".process")


def _hard_link(source: Path, link: Path) -> None:
    try:
        os.link(source, link, follow_symlinks=False)
    except FileExistsError:
        if os.path.samestat(os.lstat(source), os.lstat(link)):
            return
        raise BadRequest(f"the name {link.name} stands for another file of this sandbox already") from None
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise RlmServiceError(
                f"{source} and {link.parent} must be on one file system, because contexts are shared as hard links; "
                "found two: put blobs and session directories under one data directory"
            ) from exc
        raise disk_failed(exc, f"link {source.name} into {link.parent}") from exc
