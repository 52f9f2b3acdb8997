"""The sessions of one tenant on one replica: opened, listed, changed, paused, closed."""

import contextlib
import secrets
from dataclasses import replace

from service.errors import BadRequest, NotFound
from service.ids import RunId, SessionId, new_id
from service.journal.values import SessionDetails, SessionRecord
from service.ledger.values import Account, Level, Unit
from service.runs.driving.kept_sessions import SessionBusy, SessionPaused
from service.runs.runs import Runs
from service.runs.session_use.values import SessionChange, SessionState, SessionView, changed, check_change


class SessionDesk:
    """Sessions from the outside. `DirectCells` and `SessionContents` go into one."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._records = runs.rooms.session.records

    def __repr__(self) -> str:
        return f"<SessionDesk {self._runs!r}>"

    async def open(self, asked: SessionChange, session_id: SessionId | None = None) -> SessionView:
        """A new session, under this id or one that is made; it has a sandbox from its first use on.

        Raises:
            BadRequest, UnknownModel, UnpricedModel, MissingApiKey: what is asked for cannot be.
        """
        check_change(asked)
        session_id = session_id or SessionId(new_id("ses"))
        await self._check_model(asked)
        await self._limit(session_id, asked)
        record = SessionRecord(
            session_id=session_id,
            created_at=self._runs.rooms.now(),
            random_seed=secrets.randbits(48),
            details=changed(SessionDetails(), asked),
        )
        await self._records.create(record)
        return self._view(record, None)

    async def get(self, session_id: SessionId) -> SessionView:
        """Raises `NotFound`."""
        record = await self._records.get(session_id)
        return self._view(record, await self.run_in(session_id))

    async def list(self, limit: int = 100, before: SessionId | None = None) -> list[SessionView]:
        """Newest first, beginning below `before`."""
        return [await self.get(session_id) for session_id in await self._records.list(limit, before)]

    async def change(self, session_id: SessionId, change: SessionChange) -> SessionView:
        """Raises `NotFound`, `BadRequest`, and as `open` for a model."""
        check_change(change)
        await self._records.get(session_id)
        await self._check_model(change)
        await self._limit(session_id, change)
        await self._records.change(session_id, lambda details: changed(details, change))
        return await self.get(session_id)

    async def pause(self, session_id: SessionId) -> SessionView:
        """Give its sandbox up and take no more work. Its log brings variables and files back. Idempotent.

        A run that was submitted before still runs. At whatever replica the sandbox is, it ends soon after it is idle.

        Raises:
            NotFound, BadRequest: there is none, or it is closed.
            SessionBusy: a run is in it.
        """
        await self._records.get(session_id)
        if (run_id := await self.run_in(session_id)) is not None:
            raise SessionBusy(f"session {session_id} is in use by run {run_id}: wait for it, or cancel it")
        # First the record, so that no further run comes in. One that came meanwhile has its sandbox until it is out.
        await self._set_paused(session_id, is_paused=True)
        with contextlib.suppress(SessionBusy):
            await self._runs.seats.rest(session_id)
        return await self.get(session_id)

    async def resume(self, session_id: SessionId) -> SessionView:
        """Take work again. Idempotent. Raises `NotFound`."""
        await self._set_paused(session_id, is_paused=False)
        return await self.get(session_id)

    async def close(self, session_id: SessionId) -> None:
        """For good; its sandbox ends with the run that is in it. Idempotent. Raises `NotFound`."""
        await self._runs.close_session(session_id)

    async def check_open(self, session_id: SessionId) -> SessionRecord:
        """The record of a session that takes work.

        Raises:
            NotFound, BadRequest: there is none, or it is closed.
            SessionPaused
        """
        record = await self._records.get(session_id)
        if record.closed_at is not None:
            raise BadRequest(f"session {session_id} is closed: open another one")
        if record.details.is_paused:
            raise SessionPaused(f"session {session_id} is paused: resume it first")
        return record

    async def run_in(self, session_id: SessionId) -> RunId | None:
        """The unfinished run that is in the session, on this replica or another. One that has just finished may
        still be on its way out."""
        sitting = self._runs.seats.sitting(session_id)
        run_id = None if sitting is None else sitting.run_id
        run_id = run_id or await self._records.user_of(session_id)
        if run_id is None:
            return None
        with contextlib.suppress(NotFound):  # forgotten long after its end
            _, is_finished = await self._runs.rooms.journal.last_seq(run_id)
            return None if is_finished else run_id
        return None

    async def _set_paused(self, session_id: SessionId, *, is_paused: bool) -> None:
        record = await self._records.get(session_id)
        if record.closed_at is not None:
            raise BadRequest(f"session {session_id} is closed: open another one")
        await self._records.change(session_id, lambda details: replace(details, is_paused=is_paused))

    async def _check_model(self, change: SessionChange) -> None:
        if change.sub_model is not None:
            await self._runs.rooms.route_to(change.sub_model)

    async def _limit(self, session_id: SessionId, change: SessionChange) -> None:
        if change.budget is not None:
            account = Account(level=Level.SESSION, owner=session_id)
            await self._runs.rooms.ledger.set_limit(account, Unit.NANO_USD, change.budget)

    def _view(self, record: SessionRecord, run_id: RunId | None) -> SessionView:
        sitting = self._runs.seats.sitting(record.session_id)
        sandbox = None if sitting is None else sitting.session.sandbox
        details = record.details
        state: SessionState = "idle"
        if record.closed_at is not None:
            state = "closed"
        elif run_id is not None:
            state = "busy"
        elif details.is_paused:
            state = "paused"
        elif sandbox is not None and sandbox.is_running:
            state = "ready"
        return SessionView(
            session_id=record.session_id,
            name=details.name,
            metadata=details.metadata,
            sub_model=details.sub_model,
            budget=details.budget,
            created_at=record.created_at,
            closed_at=record.closed_at,
            state=state,
            generation=record.generation,
            run_id=run_id,
            isolation=None if sandbox is None else f"{sandbox.isolation.provider}/{sandbox.isolation.level}",
        )
