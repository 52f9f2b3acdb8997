"""Kept sessions: those that outlive a run, with the sandbox slot that each holds meanwhile."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from service.ids import SessionId
from service.loop.events import RunSubmitted
from service.runs.rooms import RunsRooms
from service.runs.sessions import OpenSession
from service.sandboxes.slots import Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    session: OpenSession
    slot: AsyncExitStack


class KeptSessions:
    """The sessions on this replica. Owns their sandboxes and slots from the first run in them until `close`."""

    def __init__(self, rooms: RunsRooms) -> None:
        self._rooms = rooms
        self._kept: dict[SessionId, _Kept] = {}

    def __repr__(self) -> str:
        return f"<KeptSessions {len(self._kept)}>"

    @asynccontextmanager
    async def used_by(self, submitted: RunSubmitted, chain: Chain) -> AsyncIterator[OpenSession]:
        """The run's session while the run uses it. One that only this run uses ends with the block."""
        if submitted.keeps_session:
            kept = await self._keep(submitted)
            async with kept.session.turnstile:
                yield kept.session
            return
        session = OpenSession(submitted.session_id, rooms=self._rooms.session)
        async with chain.take(submitted.depth):
            try:
                yield session
            finally:
                with anyio.CancelScope(shield=True):
                    await session.close()

    async def close(self, session_id: SessionId) -> None:
        """End the session's sandbox, once the run that uses it has ended. Idempotent."""
        kept = self._kept.pop(session_id, None)
        if kept is not None:
            async with kept.session.turnstile:
                await kept.slot.aclose()

    async def close_all(self) -> None:
        """End every sandbox; no run uses them any more."""
        while self._kept:
            _, kept = self._kept.popitem()
            await kept.slot.aclose()

    async def _keep(self, submitted: RunSubmitted) -> _Kept:
        kept = self._kept.get(submitted.session_id)
        if kept is not None:
            return kept
        stack = AsyncExitStack()
        waiting_s = max(1.0, submitted.deadline_at - self._rooms.now())
        chain = await stack.enter_async_context(self._rooms.slots.admit(1, deadline_s=waiting_s))
        await stack.enter_async_context(chain.take(0))
        session = OpenSession(submitted.session_id, rooms=self._rooms.session)
        stack.push_async_callback(session.close)
        # Two runs may have come here at once; the session is the one that was kept first.
        kept = self._kept.setdefault(submitted.session_id, _Kept(session=session, slot=stack))
        if kept.session is not session:
            await stack.aclose()
        return kept
