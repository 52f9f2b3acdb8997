"""Files of the working directory, as the host puts them in and takes them out, beside cells that may be running.

The supervisor does this, and what it must not do is open anything else on a cell's behalf: it is another process than
the kernel, and reads what a cell cannot (its own `/proc/self` holds the grant). A cell owns the directory and may
rename, replace and link there at any moment. So no path is ever resolved twice, nor by anybody but us:

- every step is one name in a directory that is open already, never through a link (O_NOFOLLOW);
- what was opened must be on the working directory's own file system, and be the very thing (device and number) that
  the name stands for when it is looked at without following: gVisor follows a link in spite of O_NOFOLLOW where
  O_DIRECTORY stands beside it;
- only directories and regular files are opened, and nothing is waited for: a pipe's other end may never come;
- what is written is written under a name that nobody had before, and then renamed.

Not openat2(RESOLVE_BENEATH): gVisor has none and older Linux has none, and of two ways the rarer one goes untested.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from .protocol import (
    FILE_PIECE_BYTES,
    MAX_FILES_LISTED,
    MAX_PATH_BYTES,
    MAX_PATH_PARTS,
    ErrorCode,
    ErrorReply,
    FileShown,
    FilesReply,
    PutFileRequest,
)

_MAX_NAME_BYTES = 255
_MAX_SCANNED = 10_000
_COPY_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileRefused(Exception):
    """The file cannot be had, or put there; carries the reply."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.reply = ErrorReply(code=code, message=message)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a file. `mark` is another one whenever the file is another one or has been written to."""

    data: bytes
    size_bytes: int
    mark: str


class WorkingFiles:
    """The files below one directory. Made before the first cell runs; safe to use from several threads."""

    def __init__(self, root: str, sources: str) -> None:
        """`sources` is where the host leaves what it wants to have put in; no cell can write there."""
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self._root).st_dev
        self._sources = sources

    def put(self, request: PutFileRequest) -> None:
        """Make the file a copy of a source, with the directories that lead to it; what bore its name is replaced."""
        *directories, name = split_path(request.path)
        with (
            _refusing(request.path),
            self._source(request) as source,
            self._directory(directories, create=True) as parent,
        ):
            temporary = f".rlm-{os.urandom(8).hex()}"
            target = os.open(temporary, _CREATE, 0o600, dir_fd=parent)
            try:
                try:
                    _copy(source, target)
                finally:
                    os.close(target)
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise

    def read(self, path: str, offset: int, limit: int, mark: str) -> Piece:
        """At most `limit` bytes from `offset` on; none behind the end. With a `mark`, only of that very file."""
        with self._open(path) as descriptor:
            before = _mark(descriptor)
            if mark and before != mark:
                raise _changed()
            data = os.pread(descriptor, min(limit, FILE_PIECE_BYTES), offset)
            if _mark(descriptor) != before:
                raise _changed()
            return Piece(data, os.fstat(descriptor).st_size, before)

    def delete(self, path: str) -> None:
        """Remove a file, or a link itself; a directory is refused."""
        *directories, name = split_path(path)
        with _refusing(path), self._directory(directories) as parent:
            os.unlink(name, dir_fd=parent)

    def shown(self) -> FilesReply:
        """The regular files, by path. What has no usable name, or is too deep, or too much, is left out."""
        found: list[FileShown] = []
        left_out = 0
        scanned = 0
        waiting: list[list[str]] = [[]]
        while waiting:
            directory = waiting.pop()
            with suppress(FileRefused, OSError), self._directory(directory) as opened, os.scandir(opened) as entries:
                for entry in entries:
                    scanned += 1
                    if scanned > _MAX_SCANNED or len(found) >= MAX_FILES_LISTED:
                        return FilesReply(files=_by_path(found), is_complete=False)
                    parts = [*directory, entry.name]
                    with suppress(OSError):  # it went away meanwhile
                        status = entry.stat(follow_symlinks=False)
                        if not _is_usable(parts):
                            left_out += 1
                        elif stat.S_ISDIR(status.st_mode):
                            waiting.append(parts)
                        elif stat.S_ISREG(status.st_mode):
                            found.append(FileShown(path="/".join(parts), size_bytes=status.st_size))
        return FilesReply(files=_by_path(found), is_complete=not left_out)

    @contextmanager
    def _open(self, path: str) -> Iterator[int]:
        *directories, name = split_path(path)
        with _refusing(path), self._directory(directories) as parent:
            if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise _no_file(path)
            descriptor = os.open(name, _READ, dir_fd=parent)
            try:
                self._check_is(descriptor, parent, name, stat.S_IFREG)
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _directory(self, names: list[str], *, create: bool = False) -> Iterator[int]:
        """The directory that is so many steps down, open."""
        current = os.dup(self._root)
        try:
            for name in names:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=current)
                below = os.open(name, _DIRECTORY, dir_fd=current)
                try:
                    self._check_is(below, current, name, stat.S_IFDIR)
                except BaseException:
                    os.close(below)
                    raise
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    def _check_is(self, descriptor: int, parent: int, name: str, kind: int) -> None:
        """What was opened is what the name itself stands for, and stands on our own file system."""
        opened = os.fstat(descriptor)
        named = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if {stat.S_IFMT(opened.st_mode), stat.S_IFMT(named.st_mode)} != {kind} or opened.st_dev != self._device:
            raise _no_file(name)
        if (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino):
            raise _changed()

    @contextmanager
    def _source(self, request: PutFileRequest) -> Iterator[int]:
        name = request.source
        if not is_bare(name):
            raise FileRefused(ErrorCode.BAD_REQUEST, "expected a bare file name as the source")
        descriptor = os.open(os.path.join(self._sources, name), _READ)
        try:
            if os.fstat(descriptor).st_size != request.size_bytes:
                raise FileRefused(ErrorCode.BAD_REQUEST, "the source does not have the size that was announced")
            yield descriptor
        finally:
            os.close(descriptor)


def is_bare(name: str) -> bool:
    """Whether it names a file in one directory, and nothing outside it."""
    return bool(name) and "/" not in name and "\0" not in name and name not in (".", "..")


def split_path(path: str) -> list[str]:
    """The names that a path consists of. Raises `FileRefused` where it is none that can be used."""
    parts = path.split("/")
    if not _is_usable(parts):
        raise FileRefused(
            ErrorCode.BAD_REQUEST,
            f"expected a relative path of at most {MAX_PATH_BYTES} bytes and {MAX_PATH_PARTS} names, "
            "none of them empty, . or ..",
        )
    return parts


def _is_usable(parts: list[str]) -> bool:
    if len(parts) > MAX_PATH_PARTS:
        return False
    try:
        names = [part.encode() for part in parts]
    except UnicodeEncodeError:  # a name that is not UTF-8
        return False
    return len(b"/".join(names)) <= MAX_PATH_BYTES and all(
        0 < len(name) <= _MAX_NAME_BYTES and b"\0" not in name and name not in (b".", b"..") for name in names
    )


def _mark(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _copy(source: int, target: int) -> None:
    while data := os.read(source, _COPY_BYTES):
        left = memoryview(data)
        while left:
            left = left[os.write(target, left) :]


def _by_path(found: list[FileShown]) -> list[FileShown]:
    return sorted(found, key=lambda shown: shown.path)


_CODE_OF = {
    errno.ENOENT: ErrorCode.NOT_FOUND,
    errno.ENOSPC: ErrorCode.NO_ROOM,
    errno.EDQUOT: ErrorCode.NO_ROOM,
    errno.EFBIG: ErrorCode.NO_ROOM,
    errno.ENOMEM: ErrorCode.NO_ROOM,
}


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """What the system says about a path that a cell may have prepared: whatever it is, it is no failure of ours."""
    try:
        yield
    except OSError as error:
        code = _CODE_OF.get(error.errno or 0, ErrorCode.NOT_A_FILE)
        raise FileRefused(code, f"{path[:200]}: {error.strerror}") from None


def _no_file(name: str) -> FileRefused:
    return FileRefused(
        ErrorCode.NOT_A_FILE, f"{name[:200]} is not a regular file, or a link or something else leads there"
    )


def _changed() -> FileRefused:
    return FileRefused(ErrorCode.CHANGED, "the file was changed or replaced while it was looked at")
