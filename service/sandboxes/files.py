"""Files of a sandbox's working directory: put in whole, listed, read out in pieces, deleted. Beside running cells.

What is put in reaches the sandbox as contexts do, as a hard link of a blob, and the supervisor copies it: nothing large
travels where an interrupt may have to. What is read out comes in pieces, each of which says which file it is of, so a
reader may take all the time in the world and never holds up the sandbox; a file that is written to meanwhile is told
by its mark, and reading ends with `FileChanged`.
"""

import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import anyio
import anyio.to_thread

from sandbox_image.protocol import (
    FILE_PIECE_BYTES,
    MARK_HEADER,
    MAX_FILES_LISTED,
    MAX_PATH_BYTES,
    SIZE_HEADER,
    DeleteFileRequest,
    ErrorCode,
    PutFileRequest,
)
from service.errors import BadRequest, Fault, RlmServiceError
from service.sandboxes import replies
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.directory import SessionDirectory
from service.sandboxes.link import Answer
from service.sandboxes.refusals import Refused

_MARK = re.compile(r"[0-9a-f-]{1,64}")
_SIZE = re.compile(r"[0-9]{1,15}")


class FileMissing(RlmServiceError):
    """The working directory has no file of this path."""

    code = "file_missing"
    fault = Fault.CALLER


class NotAFile(RlmServiceError):
    """What is there is no regular file, or the path leads through a link or over something that is no directory."""

    code = "not_a_file"
    fault = Fault.CALLER


class FileChanged(RlmServiceError):
    """Code in the session wrote to the file, or replaced it, while it was read."""

    code = "file_changed"
    fault = Fault.CALLER
    may_be_retried = True


class FileTooLarge(RlmServiceError):
    """The file does not fit into the session's working directory."""

    code = "file_too_large"
    fault = Fault.POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStanding:
    """A file as it was found. `mark` is another one when its content is, or may be."""

    path: str
    size_bytes: int
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A regular file below the working directory."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileList:
    """By path. Not complete: there are more than can be listed, or some whose names no path can say."""

    files: tuple[ListedFile, ...]
    is_complete: bool


class Asks(Protocol):
    """`Sandbox`'s own exchange of JSON."""

    def __call__(
        self, method: str, target: str, message: Mapping[str, object] | None = None, *, deadline_s: float | None = None
    ) -> Awaitable[bytes]: ...


class Exchanges(Protocol):
    """`Sandbox`'s own exchange whose answer is read as a stream."""

    def __call__(self, method: str, target: str, *, deadline_s: float) -> AbstractAsyncContextManager[Answer]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeaksOfFiles:
    """What a `Sandbox` lends: how to ask, and what ends it when it breaks the protocol."""

    ask: Asks
    exchange: Exchanges
    guarded: Callable[[str], AbstractAsyncContextManager[None]]
    deadline_for: Callable[[int], float]


class SandboxFiles:
    """The files of one sandbox. Everything may raise `SandboxGone` besides what it says."""

    def __init__(self, directory: SessionDirectory, speaks: SpeaksOfFiles, *, limit_bytes: int) -> None:
        self._directory = directory
        self._speaks = speaks
        self.limit_bytes = limit_bytes
        """No file can be larger."""

    def __repr__(self) -> str:
        return f"<SandboxFiles of {self._directory}>"

    async def put(self, path: str, content: Path, size_bytes: int) -> None:
        """Make the file a copy of a blob, in place of whatever bore that path. Idempotent.

        Raises:
            BadRequest: the path cannot be one.
            NotAFile: a directory bears that path, or something else stands in the way.
            FileTooLarge: it does not fit.
        """
        if size_bytes > self.limit_bytes:
            raise FileTooLarge(
                f"a file of a session may have {self.limit_bytes} bytes, this one has {size_bytes}: make it a context",
                data={"limit_bytes": self.limit_bytes},
            )
        _checked(path)
        source = f"file-{secrets.token_hex(8)}"
        await anyio.to_thread.run_sync(self._directory.link_contexts, {source: content})
        try:
            request = PutFileRequest(path=path, source=source, size_bytes=size_bytes)
            async with self._asking("was given a file", path):
                await self._speaks.ask(
                    "PUT", "/files", asdict(request), deadline_s=self._speaks.deadline_for(size_bytes)
                )
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._directory.unlink_context, source)

    async def list(self) -> FileList:
        """Every regular file, up to a bound."""
        async with self._asking("listed its files", ""):
            reply = await replies.read(replies.FILES, await self._speaks.ask("GET", "/files"))
            if len(reply.files) > MAX_FILES_LISTED:
                raise ProtocolBroken("too many files in a list")
            files = tuple(
                ListedFile(path=replies.bounded(file.path, MAX_PATH_BYTES), size_bytes=replies.whole(file.size_bytes))
                for file in reply.files
            )
        return FileList(files=files, is_complete=reply.is_complete)

    async def look(self, path: str) -> FileStanding:
        """The file as it stands. Raises `BadRequest`, `FileMissing`, `NotAFile`."""
        _, standing = await self._piece(path, offset=0, limit=0, mark="")
        return standing

    async def read(self, standing: FileStanding, first: int, end: int) -> AsyncGenerator[bytes, None]:
        """Its bytes from `first` up to `end`, as slowly as they are taken.

        Raises:
            FileChanged: it is no longer the file that was looked at. What was given by then was.
        """
        offset = first
        while offset < end:
            wanted = min(FILE_PIECE_BYTES, end - offset)
            data, _ = await self._piece(standing.path, offset=offset, limit=wanted, mark=standing.mark)
            if len(data) != wanted:
                raise FileChanged(f"{standing.path[:200]} was changed while it was read: read it again")
            offset += wanted
            yield data

    async def delete(self, path: str) -> None:
        """Remove a file. Raises `BadRequest`, `FileMissing`, `NotAFile`."""
        async with self._asking("deleted a file", path):
            await self._speaks.ask("POST", "/files/delete", asdict(DeleteFileRequest(path=_checked(path))))

    async def _piece(self, path: str, *, offset: int, limit: int, mark: str) -> tuple[bytes, FileStanding]:
        target = f"/files/content?path={quote(_checked(path), safe='')}&offset={offset}&limit={limit}&mark={mark}"
        async with self._asking("gave a file", path):
            deadline_s = self._speaks.deadline_for(limit)
            async with self._speaks.exchange("GET", target, deadline_s=deadline_s) as answer:
                found, size = answer.header(MARK_HEADER) or "", answer.header(SIZE_HEADER) or ""
                if not _MARK.fullmatch(found) or not _SIZE.fullmatch(size):
                    raise ProtocolBroken("a piece of a file that does not say of which")
                data = await answer.read(limit)
            if mark and found != mark:
                raise ProtocolBroken("a piece of another file")
        return data, FileStanding(path=path, size_bytes=int(size), mark=found)

    @asynccontextmanager
    async def _asking(self, doing: str, path: str) -> AsyncIterator[None]:
        """Errors of the file become ours; every other one ends the sandbox."""
        async with self._speaks.guarded(doing):
            try:
                yield
            except Refused as exc:
                if (error := _error_of(exc, replies.shown_to_people(path)[:200])) is None:
                    raise
                raise error from exc


def _checked(path: str) -> str:
    """What can be said on the wire; which paths can be used the sandbox decides, where it walks them."""
    try:
        if len(path.encode()) <= MAX_PATH_BYTES:
            return path
    except UnicodeEncodeError:
        pass
    raise BadRequest(f"the path of a file must be text of at most {MAX_PATH_BYTES} bytes in UTF-8")


def _error_of(refused: Refused, path: str) -> RlmServiceError | None:
    match refused.code:
        case ErrorCode.BAD_REQUEST:
            return BadRequest(f"the path {path!r} cannot be used: {refused.message}")
        case ErrorCode.NOT_FOUND:
            return FileMissing(f"the session has no file {path!r}: list its files to see which there are")
        case ErrorCode.NOT_A_FILE:
            return NotAFile(f"{path!r} cannot be used as a file: {refused.message}")
        case ErrorCode.CHANGED:
            return FileChanged(f"{path!r} was changed while it was looked at: try again")
        case ErrorCode.NO_ROOM:
            return FileTooLarge(f"the session has no room for {path!r}: delete files there, or make it a context")
        case _:
            return None
