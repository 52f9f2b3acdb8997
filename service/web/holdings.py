"""What a caller keeps: contexts and sessions are counted, and their bytes, at every level that has a limit.

A payload is counted before anything that can be read refers to it, or, with a whole context, before its id is given
out: what does not fit is taken away again. What was made by other ways than this API (the command line, which belongs
to the operator) is not counted.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated

from fastapi import Depends, Request

from sandbox_image.protocol import ImageEncoding
from service.contexts.uploads import Upload
from service.contexts.values import Context, Part
from service.ids import ContextId, RunId, SessionId
from service.loop.values import BlobRef
from service.runs.runs import Runs
from service.tenants.errors import QuotaExceeded
from service.tenants.quotas import LEASE_S, Counted, Quotas
from service.tenants.storage import MOST_BLOBS, Storage
from service.tenants.values import Level
from service.web.callers import caller_of, rooms_of, runs_of


class Holdings:
    """Those of the tenant of one request, counted at the levels of its key."""

    def __init__(self, runs: Runs, quotas: Quotas, storage: Storage, levels: tuple[Level, ...]) -> None:
        self._runs = runs
        self._quotas = quotas
        self._storage = storage
        self._levels = levels

    async def keep_context(self, context: Context, *, since: float) -> Context:
        """Count a stored context and return it. Idempotent: one that was counted stays so.

        Raises:
            QuotaExceeded: there are too many, or too many bytes; one that was made `since` is deleted again.
        """
        try:
            await self.count_context(context.context_id)
            await self.keep_parts(context.context_id, context.parts)
        except QuotaExceeded:
            if context.created_at >= since:
                await self._runs.rooms.contexts.delete(context.context_id)
                await self.drop_context(context.context_id)
            raise
        return context

    async def count_context(self, context_id: ContextId) -> None:
        """Count one whose parts are yet to come. Raises `QuotaExceeded`."""
        await self._quotas.acquire(Counted.OPEN_CONTEXTS, context_id, self._levels, lapses_at=None)

    async def keep_parts(self, context_id: ContextId, parts: Sequence[Part]) -> None:
        """Count the bytes of parts, before the context refers to them. Idempotent. Raises `QuotaExceeded`."""
        blobs = iter(dict(blob for part in parts for blob in _blobs(part)).items())
        while some := dict(islice(blobs, MOST_BLOBS)):
            await self._storage.hold(context_id, some, self._levels)

    async def keep_upload(self, upload: Upload) -> None:
        """Count all bytes that are to come, until it has become a context or has ended. Raises `QuotaExceeded`."""
        await self._storage.hold(upload.upload_id, {upload.upload_id: upload.plan.size_bytes}, self._levels)

    async def keep_in_run(self, run_id: RunId, sizes: Mapping[str, int]) -> None:
        """Count what an imported run brings. Raises `QuotaExceeded`."""
        await self._storage.hold(run_id, sizes, self._levels)

    async def drop_context(self, context_id: ContextId) -> None:
        """It was deleted. Idempotent."""
        await self._quotas.release(Counted.OPEN_CONTEXTS, context_id)
        await self._storage.drop(context_id)

    async def begin_session(self, session_id: SessionId) -> None:
        """Count one that is about to be opened, for as long as that may take. Raises `QuotaExceeded`."""
        until = self._runs.rooms.now() + LEASE_S
        await self._quotas.acquire(Counted.OPEN_SESSIONS, session_id, self._levels, lapses_at=until)

    async def count_session(self, session_id: SessionId) -> None:
        """Count one until it is closed. Raises `QuotaExceeded`."""
        await self._quotas.acquire(Counted.OPEN_SESSIONS, session_id, self._levels, lapses_at=None)

    async def keep_in_session(self, session_id: SessionId, blob: BlobRef) -> None:
        """Count what is about to be put into a session. Raises `QuotaExceeded`."""
        await self._storage.hold(session_id, {blob.sha256: blob.size_bytes}, self._levels)

    async def drop_session(self, session_id: SessionId) -> None:
        """It was closed. Idempotent."""
        await self._quotas.release(Counted.OPEN_SESSIONS, session_id)
        await self._storage.drop(session_id)


def holdings_of(request: Request) -> Holdings:
    caller, registry = caller_of(request), rooms_of(request).registry
    tenant = caller.tenant.id
    return Holdings(runs_of(request), registry.quotas_of(tenant), registry.storage_of(tenant), caller.levels)


_WIDTH_OF: Mapping[ImageEncoding, int] = {"ascii": 1, "latin-1": 1, "utf-16-le": 2, "utf-32-le": 4}

HoldingsOfCaller = Annotated[Holdings, Depends(holdings_of)]


def _blobs(part: Part) -> list[tuple[str, int]]:
    """The part's payloads, images included; where one is the original itself, it counts once."""
    found = [(part.sha256, part.size_bytes)]
    if part.image is not None and part.image.sha256 != part.sha256:
        found.append((part.image.sha256, part.image.length * _WIDTH_OF[part.image.encoding]))
    if part.list_image is not None:
        found.append((part.list_image.sha256, part.list_image.size_bytes))
    return found
