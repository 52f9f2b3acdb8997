"""Reading values out of a run's sandbox: submitted answers, partial ones, and what a final names."""

from dataclasses import replace
from typing import Literal

import anyio

from service.loop.commands import ReadVariable
from service.loop.events import ValueRead
from service.loop.values import BlobRef
from service.runs.driving.interruption import STOPPED, Interruption, Stopped
from service.runs.rooms import RunsRooms
from service.runs.sessions.open_session import AnswerForm, OpenSession
from service.runs.standing import Standing
from service.runs.submission.schemas import MAX_CHECKED_CHARS, ReplyBreaksSchema, check_schema_aside, parse_checked
from service.sandboxes.port import SandboxGone
from service.sandboxes.values import SandboxBusy, ValueMissing, ValueTooLarge, ValueUnserialisable
from service.store.errors import BlobTooLarge

LEAST_READ_S = 5.0


def answer_form(standing: Standing) -> AnswerForm:
    """What the run's answer is read as."""
    return "text" if standing.submitted.answer_schema is None else "json"


class ReadsValues:
    """Of one run."""

    def __init__(self, standing: Standing, rooms: RunsRooms, interruption: Interruption) -> None:
        self._standing = standing
        self._rooms = rooms
        self._interruption = interruption

    async def read(self, session: OpenSession, command: ReadVariable) -> ValueRead:
        """The variable's value, or why there is none. Raises `StoreFailed`."""

        def read(outcome: Literal["read", "missing", "too_large", "failed"], message: str = "") -> ValueRead:
            return ValueRead(at=self._rooms.now(), variable=command.variable, outcome=outcome, message=message)

        patience_s = max(LEAST_READ_S, self._standing.submitted.deadline_at - self._rooms.now())
        blob: BlobRef | Stopped = STOPPED
        try:
            with anyio.move_on_after(patience_s):
                blob = await self._interruption.unless_stopped(lambda: self._read_into_blob(session, command))
        except ValueMissing as exc:
            return read("missing", str(exc))
        except (ValueTooLarge, BlobTooLarge) as exc:
            return read("too_large", str(exc))
        except (ValueUnserialisable, SandboxGone, SandboxBusy) as exc:
            return read("failed", str(exc))
        if isinstance(blob, Stopped):
            # Whatever keeps the value from coming (code of its own, perhaps) would keep everything else from coming.
            await session.close()
            return read("failed", "reading the value took longer than the run has time for")
        complaint = await self._complaint_about(blob)
        return replace(read("read" if complaint is None else "failed", complaint or ""), blob=blob)

    async def _read_into_blob(self, session: OpenSession, command: ReadVariable) -> BlobRef:
        if session.sandbox is None:
            raise SandboxGone("the sandbox is gone, and the value with it")
        form = answer_form(self._standing)
        limit_bytes = command.size_limit_bytes
        async with session.sandbox.read_value(command.variable, as_=form, limit_bytes=limit_bytes) as value:
            return await self._rooms.blobs.put_stream(value.chunks, limit_bytes=limit_bytes, media=form)

    async def _complaint_about(self, blob: BlobRef) -> str | None:
        """How the value breaks the answer schema, if there is one; it may still be the best there is."""
        schema = self._standing.submitted.answer_schema
        if schema is None:
            return None
        payload = await self._rooms.blobs.read(blob, limit_bytes=MAX_CHECKED_CHARS)
        try:
            await parse_checked(payload.decode("utf-8", "replace"), await check_schema_aside(schema))
        except ReplyBreaksSchema as exc:
            return str(exc)
        return None
