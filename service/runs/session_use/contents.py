"""What is in a session: its variables and its files, looked at, read out and put in by its caller."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

from sandbox_image.protocol import Variable
from service.errors import BadRequest
from service.ids import SessionId
from service.loop.values import BlobRef
from service.runs.driving.kept_sessions import SessionBusy, refused_where_taken
from service.runs.driving.seats import LEAVES_WITHIN_S
from service.runs.runs import Runs
from service.runs.session_use.direct_cells import DirectCells
from service.runs.sessions.open_session import OpenSession
from service.runs.sessions.replaying import PutFile, WrittenVariable
from service.runs.submission.first_event import check_variable_name
from service.sandboxes.files import FileList, FileStanding, FileTooLarge
from service.sandboxes.port import KernelGone, SandboxGone
from service.store.errors import BlobTooLarge

MAX_VALUE_BYTES = 64 << 20
"""Of a variable that is written or read out."""

ValueForm = Literal["text", "json"]
KeepBlob = Callable[[SessionId, BlobRef], Awaitable[None]]
"""Counts a payload as kept by a session; called before the session has it, and whatever it raises refuses it."""


class SessionContents:
    """Variables and files of a tenant's sessions. Every method may raise what `DirectCells.wake` raises."""

    def __init__(self, runs: Runs, cells: DirectCells, *, keep: KeepBlob, keep_read_out: KeepBlob) -> None:
        """`keep_read_out` is told what was read out of a variable: it takes the place of what was before."""
        self._runs = runs
        self._cells = cells
        self._keep = keep
        self._keep_read_out = keep_read_out

    async def variables(self, session_id: SessionId) -> list[Variable]:
        """What cells and callers made there, bounded. Raises `SessionBusy` while a run is in it."""
        try:
            async with self._between_runs(session_id) as session:
                return await session.opened.variables()
        except KernelGone:
            await self._cells.bring_back(session_id)
        async with self._between_runs(session_id) as session:
            return await session.opened.variables()

    async def read_variable(
        self, session_id: SessionId, name: str, *, as_: ValueForm, limit_bytes: int = MAX_VALUE_BYTES
    ) -> BlobRef:
        """A variable's value, read out into a blob: whoever takes it slowly does not hold up the session.

        Raises:
            ValueMissing, ValueTooLarge, ValueUnserialisable: nothing was read.
            QuotaExceeded: it does not fit into what the tenant may keep.
            SessionBusy: a run is in it.
        """
        try:
            read = await self._read_out(session_id, name, as_, limit_bytes)
        except KernelGone:
            await self._cells.bring_back(session_id)
            read = await self._read_out(session_id, name, as_, limit_bytes)
        await self._keep_read_out(session_id, read)
        return read

    async def _read_out(self, session_id: SessionId, name: str, as_: ValueForm, limit_bytes: int) -> BlobRef:
        async with (
            self._between_runs(session_id) as session,
            session.opened.read_value(name, as_=as_, limit_bytes=limit_bytes) as value,
        ):
            return await self._runs.rooms.blobs.put_stream(value.chunks, limit_bytes=limit_bytes, media=as_)

    async def write_variable(
        self, session_id: SessionId, name: str, chunks: AsyncIterator[bytes], *, as_: ValueForm
    ) -> BlobRef:
        """Give a variable a text, or a JSON value. The last write counts.

        Raises:
            BadRequest: the name cannot be a variable's, or the value is too large.
            BindRefused: it is not what it is said to be, or does not fit.
            SessionBusy: a run is in it.
        """
        check_variable_name(name)
        try:
            value = await self._runs.rooms.blobs.put_stream(chunks, limit_bytes=MAX_VALUE_BYTES, media=as_)
        except BlobTooLarge as exc:
            raise BadRequest(f"a variable may have {MAX_VALUE_BYTES} bytes: make it a context") from exc
        async with self._between_runs(session_id) as session:
            await self._keep(session_id, value)
            with refused_where_taken(session_id):
                await session.write_variable(WrittenVariable(name=name, value=value))
        return value

    async def files(self, session_id: SessionId) -> FileList:
        """The regular files of the working directory; beside a running cell too."""
        return await (await self._awake(session_id)).opened.files.list()

    async def look_at_file(self, session_id: SessionId, path: str) -> FileStanding:
        """Raises `BadRequest`, `FileMissing`, `NotAFile`."""
        return await (await self._awake(session_id)).opened.files.look(path)

    async def read_file(
        self, session_id: SessionId, standing: FileStanding, first: int, end: int
    ) -> AsyncIterator[bytes]:
        """Its bytes from `first` up to `end`. Raises `FileChanged` once it is no longer the file that was looked at."""
        sitting = self._runs.seats.sitting(session_id)
        if sitting is None:
            raise SandboxGone(f"session {session_id} gave its sandbox up while the file was read: read it again")
        async for piece in sitting.session.opened.files.read(standing, first, end):
            yield piece

    async def put_file(self, session_id: SessionId, path: str, chunks: AsyncIterator[bytes]) -> BlobRef:
        """Put a file into the working directory, in place of what bore its name. A rebuilt sandbox has it again.

        Raises:
            BadRequest, NotAFile: it cannot stand there.
            FileTooLarge: it does not fit.
        """
        session = await self._awake(session_id)
        limit_bytes = session.opened.files.limit_bytes
        try:
            content = await self._runs.rooms.blobs.put_stream(chunks, limit_bytes=limit_bytes)
        except BlobTooLarge as exc:
            raise FileTooLarge(
                f"a file of a session may have {limit_bytes} bytes: make it a context",
                data={"limit_bytes": limit_bytes},
            ) from exc
        await self._keep(session_id, content)
        with refused_where_taken(session_id):
            await session.put_file(PutFile(path=path, content=content))
        return content

    async def delete_file(self, session_id: SessionId, path: str) -> None:
        """Idempotent. Raises `BadRequest`, `NotAFile`."""
        session = await self._awake(session_id)
        with refused_where_taken(session_id):
            await session.put_file(PutFile(path=path, content=None))

    async def _awake(self, session_id: SessionId) -> OpenSession:
        sitting = self._runs.seats.sitting(session_id)
        if sitting is None or sitting.run_id is None:
            await self._refuse_while_used(session_id)
        await self._cells.wake(session_id)
        sitting = self._runs.seats.sitting(session_id)
        if sitting is None:
            raise SandboxGone(f"session {session_id} had to give its sandbox up at once: try again")
        return sitting.session

    async def _refuse_while_used(self, session_id: SessionId) -> None:
        run_id = await self._cells.desk.run_in(session_id)
        if run_id is not None:
            raise SessionBusy(f"session {session_id} is in use by run {run_id}: wait for it, or cancel it")

    @asynccontextmanager
    async def _between_runs(self, session_id: SessionId) -> AsyncIterator[OpenSession]:
        await self._refuse_while_used(session_id)
        await self._cells.wake(session_id)
        async with self._runs.seats.between_runs(session_id, patience_s=LEAVES_WITHIN_S) as session:
            if session is None:
                raise SandboxGone(f"session {session_id} had to give its sandbox up at once: try again")
            yield session
