"""The door to everything that can be done with a run, and the boundary at which a driver's failure ends."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import anyio.abc

from service.errors import BadRequest, NotFound, sole_failure
from service.ids import RunId, SessionId, new_id
from service.journal.values import Recorded
from service.loop.events import CallFinished
from service.loop.values import AnswerSource, CallOutcome
from service.runs.calls.purse import Purse
from service.runs.driving.drives import Drives
from service.runs.driving.last_word import say_last_word
from service.runs.driving.seats import KeptSessions, Seats, SessionPaused
from service.runs.rooms import RunsRooms
from service.runs.submission.first_event import check_affordable, check_request, first_call_amount
from service.runs.submitting import keep_session, new_session, submitted_event
from service.runs.summaries import Summaries
from service.runs.values import RunRequest, RunView
from service.store.errors import StoreFailed

STOP_WITHIN_S = 60.0


class Runs:
    """Submit, start, follow, cancel, show. One per tenant and replica; drives runs in the task group it is given."""

    def __init__(self, rooms: RunsRooms, tasks: anyio.abc.TaskGroup, kept: KeptSessions) -> None:
        self.rooms = rooms
        self._tasks = tasks
        self._seats = Seats(rooms, kept)
        self._drives = Drives(rooms, self._seats)
        self._summaries = Summaries(rooms)
        self._live: dict[RunId, anyio.Event] = {}

    def __repr__(self) -> str:
        return f"<Runs live={len(self._live)} {self._seats!r}>"

    @property
    def seats(self) -> Seats:
        """Which sessions stand on this replica, for whoever uses them between runs."""
        return self._seats

    async def submit(self, request: RunRequest, run_id: RunId | None = None) -> RunId:
        """Check, price and journal a new run. It waits until somebody calls `start`.

        Until it is known that the run can be, nothing is written. `run_id` is the id that it shall have, decided before
        by whoever must find it again; None makes one.

        Raises:
            BadRequest, NotFound, UnknownModel, UnpricedModel, MissingApiKey: what the request asks for cannot be.
            BudgetTooSmall: its own limits do not cover its first call.
            BudgetExceeded, BudgetInFlight: nor does what is left to its session, key or tenant.
            SandboxRefused, NoSandboxSlot: this machine cannot run it.
            RunIdTaken: there is a run of this id already.
            StoreFailed: whether anything was submitted is unknown.
        """
        check_request(request)
        self.rooms.slots.check(request.limits.depth + 1)
        await self.rooms.provider.isolation()
        session_id = request.session_id
        if session_id is not None:
            record = await self.rooms.session.records.get(session_id)
            if record.closed_at is not None:
                raise BadRequest(f"session {session_id} is closed: submit without a session, or open another one")
            if record.details.is_paused:
                raise SessionPaused(f"session {session_id} is paused: resume it first")
        submitted = await submitted_event(
            self.rooms, request, session_id or SessionId(new_id("ses")), run_id=run_id or RunId(new_id("run"))
        )
        route = await self.rooms.route_to(submitted.root_model)
        check_affordable(submitted, route)
        purse = Purse(submitted, self.rooms.ledger)
        await purse.check_covers(first_call_amount(submitted, route))
        if session_id is None:
            await keep_session(self.rooms, submitted.session_id)
        await purse.set_limits()
        await self.rooms.journal.open_run(submitted)
        return submitted.run_id

    def start(self, run_id: RunId) -> None:
        """Drive a submitted run in this replica's task group. Calling it for a live run changes nothing."""
        if run_id not in self._live:
            self._live[run_id] = anyio.Event()
            self._tasks.start_soon(self._drive_to_last_word, run_id)

    def end_of(self, run_id: RunId) -> anyio.Event | None:
        """Set once this replica has stopped driving the run; None for one that it does not drive."""
        return self._live.get(run_id)

    def follow(self, run_id: RunId, after: int = 0) -> AsyncIterator[Recorded]:
        """The run's events from behind `after`, as they come, ending with `RunFinished`."""
        return self.rooms.journal.follow(run_id, after)

    async def recorded(self, run_id: RunId) -> AsyncGenerator[Recorded, None]:
        """The run's events so far. Raises `NotFound`."""
        after = 0
        while page := await self.rooms.journal.read(run_id, after):
            for entry in page:
                yield entry
            after = page[-1].seq

    async def cancel(self, run_id: RunId) -> None:
        """Ask for the run to be stopped, wherever it is driven. Idempotent; a finished run stays as it is."""
        await self.rooms.journal.request_cancel(run_id)

    async def show(self, run_id: RunId) -> RunView:
        """Raises `NotFound`."""
        return await self._summaries.view(run_id)

    async def ls(self, limit: int, before: RunId | None = None) -> list[RunView]:
        """Root runs, the newest first, beginning below `before`."""
        return await self._summaries.views(await self.rooms.journal.list_runs(limit, before))

    async def answer_chunks(self, run_id: RunId) -> AsyncIterator[bytes]:
        """The answer as stored, of any size; nothing when there is none (yet)."""
        view = await self.show(run_id)
        if view.answer is not None:
            async for chunk in self.rooms.blobs.stream(view.answer):
                yield chunk
        elif view.answer_source is AnswerSource.SUBMITTED:
            # A direct call's reply is its answer, and stands in the journal only.
            for recorded in await self.rooms.events_of(run_id):
                if isinstance(recorded.event, CallFinished) and recorded.event.outcome is CallOutcome.OK:
                    yield recorded.event.text.encode()

    async def open_session(self) -> SessionId:
        """A session that runs can be submitted to one after the other, keeping its variables between them."""
        return await new_session(self.rooms)

    async def close_session(self, session_id: SessionId) -> None:
        """End the session's sandbox here, if it has one. Idempotent."""
        # First the record, so that no further run comes in; then the sandbox, once the last one is out.
        await self.rooms.session.records.close(session_id, self.rooms.now())
        await self._seats.close(session_id)

    async def stop(self) -> None:
        """Cancel every live run and wait until each has settled and said its last word. Called before closing, when
        every tenant's runs stop."""
        for run_id in list(self._live):
            with contextlib.suppress(StoreFailed, NotFound):  # a run without its store is stopping by itself
                await self.cancel(run_id)
        with anyio.move_on_after(STOP_WITHIN_S):
            for ended in list(self._live.values()):
                await ended.wait()
        await self._seats.close_all()

    async def _drive_to_last_word(self, run_id: RunId) -> None:
        try:
            await self._drives.drive_root(run_id)
        except Exception as exc:  # noqa: BLE001 -- one of the few boundaries: a run's failure must not end the others
            await say_last_word(self.rooms, run_id, sole_failure(exc))
        finally:
            self._live.pop(run_id).set()
