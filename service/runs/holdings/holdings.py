"""What a caller keeps: contexts and sessions are counted, and their bytes, at every level that has a limit.

A payload is counted before anything that can be read refers to it, or, with a whole context, before its id is given
out: what does not fit is taken away again. What was made by other ways than the API (the command line, which belongs
to the operator) is not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from service.contexts.mending import payloads_of
from service.contexts.upload_values import Upload
from service.contexts.values import Context, Part
from service.errors import NotFound
from service.ids import ContextId, RunId, SessionId
from service.loop.events import RunSubmitted
from service.loop.values import BlobRef
from service.runs.rooms import RunsRooms
from service.tenants.errors import QuotaExceeded
from service.tenants.quotas import LEASE_S, Counted
from service.tenants.storage import MOST_BLOBS, StorageLeft
from service.tenants.values import NO_LIMITS, Level


class Holdings:
    """Those of one tenant, counted at the levels of whoever asks."""

    def __init__(self, rooms: RunsRooms, levels: tuple[Level, ...]) -> None:
        self._rooms = rooms
        self._quotas = rooms.quotas
        self._storage = rooms.storage
        self._levels = levels

    async def keep_context(self, context: Context, *, since: float) -> Context:
        """Count a stored context and return it. Idempotent: one that was counted stays so. One that was deleted
        meanwhile is not counted.

        Raises:
            QuotaExceeded: there are too many, or too many bytes; one that was made `since` is deleted again.
        """
        try:
            await self.count_context(context.context_id)
            key = self._rooms.contexts.key_of(context.context_id)
            await self._keep_parts(context.context_id, context.parts, key)
        except NotFound:
            await self.drop_context(context.context_id)
        except QuotaExceeded:
            if context.created_at >= since:
                await self._rooms.contexts.delete(context.context_id)
                await self.drop_context(context.context_id)
            raise
        return context

    async def count_context(self, context_id: ContextId) -> None:
        """Count one whose parts are yet to come. Raises `QuotaExceeded`."""
        await self._quotas.acquire(Counted.OPEN_CONTEXTS, context_id, self._levels, for_s=None)

    async def keep_parts(self, context_id: ContextId, parts: Sequence[Part]) -> None:
        """Count the bytes of parts of an open context, before it refers to them. Idempotent.

        Raises:
            QuotaExceeded
            NotFound: it is open no more.
        """
        await self._keep_parts(context_id, parts, self._rooms.open_contexts.key_of(context_id))

    async def _keep_parts(self, context_id: ContextId, parts: Sequence[Part], key: str) -> None:
        blobs = iter(dict(payloads_of(parts)).items())
        while some := dict(islice(blobs, MOST_BLOBS)):
            await self._storage.hold(context_id, some, self._levels, while_there=key)

    async def left(self) -> StorageLeft | None:
        """How much more may be kept, for who would refuse a payload before it comes; None when any does."""
        return await self._storage.left(self._levels)

    async def keep_upload(self, upload: Upload) -> None:
        """Count all bytes that are to come, until it has become a context or has ended. Raises `QuotaExceeded`."""
        await self._storage.hold(upload.upload_id, {upload.upload_id: upload.plan.size_bytes}, self._levels)

    async def keep_in_run(self, run_id: RunId, sizes: Mapping[str, int]) -> None:
        """Count what an imported run brings. Raises `QuotaExceeded`."""
        await self._storage.hold(run_id, sizes, self._levels)

    async def drop_context(self, context_id: ContextId) -> None:
        """It was deleted. Idempotent."""
        await uncount_context(self._rooms, context_id)

    async def begin_session(self, session_id: SessionId) -> None:
        """Count one that is about to be opened, for as long as that may take. Raises `QuotaExceeded`."""
        await self._quotas.acquire(Counted.OPEN_SESSIONS, session_id, self._levels, for_s=LEASE_S)

    async def count_session(self, session_id: SessionId) -> None:
        """Count one until it is closed. Raises `QuotaExceeded`."""
        await self._quotas.acquire(Counted.OPEN_SESSIONS, session_id, self._levels, for_s=None)

    async def keep_in_session(self, session_id: SessionId, blob: BlobRef) -> None:
        """Count what is about to be put into a session. Raises `QuotaExceeded`, and `NotFound` when it is closed."""
        await self._keep_of_session(session_id, session_id, blob)

    async def keep_read_out(self, session_id: SessionId, blob: BlobRef) -> None:
        """Count what was read out of a session, instead of what was read out of it before. Raises as above."""
        referrer = _read_out_of(session_id)
        await self._storage.drop(referrer)
        await self._keep_of_session(session_id, referrer, blob)

    async def _keep_of_session(self, session_id: SessionId, referrer: str, blob: BlobRef) -> None:
        key = self._rooms.session.records.key_of(session_id)
        await self._storage.hold(referrer, {blob.sha256: blob.size_bytes}, self._levels, while_there=key)

    async def drop_session(self, session_id: SessionId) -> None:
        """It was closed. Idempotent."""
        await uncount_session(self._rooms, session_id)


async def uncount_context(rooms: RunsRooms, context_id: ContextId) -> None:
    """What is done about a context that is gone. Idempotent: where it was broken off, `expiring` does it again."""
    await rooms.quotas.release(Counted.OPEN_CONTEXTS, context_id)
    await rooms.storage.drop(context_id)
    await rooms.contexts.lives.forget_left(context_id)


async def uncount_session(rooms: RunsRooms, session_id: SessionId) -> None:
    """What is done about a session that is closed, or gone. Idempotent, and done again as above."""
    await rooms.quotas.release(Counted.OPEN_SESSIONS, session_id)
    await rooms.storage.drop(session_id)
    await rooms.storage.drop(_read_out_of(session_id))
    await rooms.session.records.forget_left(session_id)


async def count_answer(rooms: RunsRooms, submitted: RunSubmitted, answer: BlobRef) -> None:
    """Count an answer as kept by its run, until that is forgotten. It is paid for and there, so no limit refuses it.
    Idempotent."""
    levels = [replace(level, limits=NO_LIMITS) for level in await rooms.dispatch.levels_of(submitted.key_line)]
    await rooms.storage.hold(submitted.run_id, {answer.sha256: answer.size_bytes}, levels)


def _read_out_of(session_id: SessionId) -> str:
    return f"read-out:{session_id}"
