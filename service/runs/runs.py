"""The door to everything that can be done with a run, and the boundary at which a driver's failure ends."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from service.errors import BadRequest, NotFound, RlmServiceError, sole_failure
from service.ids import RunId, SessionId, new_id, own_session_of
from service.journal.values import Recorded, RunAlreadyFinished, RunIdTaken, RunKept
from service.loop.events import Event, RunSubmitted
from service.loop.values import AnswerSource
from service.runs.calls.purse import Purse
from service.runs.direct.answers import direct_answer
from service.runs.driving.drives import Drives
from service.runs.driving.kept_sessions import KeptSessions, SessionPaused
from service.runs.driving.last_word import say_last_word
from service.runs.driving.seats import Seats
from service.runs.driving.tenure import Tenure
from service.runs.rooms import RunsRooms
from service.runs.submission.first_event import check_affordable, check_request, first_call_amount
from service.runs.submitting import keep_named, keep_session, new_session, submitted_event
from service.runs.summaries import Summaries
from service.runs.values import RunRequest, RunView
from service.store.errors import StoreFailed

STOP_WITHIN_S = 60.0
LET_GO_WITHIN_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Live:
    """A run that this replica drives, or is about to."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    """Set when it is neither."""
    tenure: Tenure | None = None
    """Once it is claimed."""


class Runs:
    """Submit, start, follow, cancel, show. One per tenant and replica; drives runs in the task group it is given."""

    def __init__(self, rooms: RunsRooms, tasks: anyio.abc.TaskGroup, kept: KeptSessions) -> None:
        self.rooms = rooms
        self._tasks = tasks
        self._seats = Seats(rooms, kept)
        self._drives = Drives(rooms, self._seats)
        self._summaries = Summaries(rooms)
        self._live: dict[RunId, _Live] = {}
        self._is_leaving = False

    def __repr__(self) -> str:
        return f"<Runs live={len(self._live)} {self._seats!r}>"

    @property
    def seats(self) -> Seats:
        """Which sessions stand on this replica, for whoever uses them between runs."""
        return self._seats

    async def submit(self, request: RunRequest, run_id: RunId | None = None) -> RunId:
        """Check, price and journal a new run. It waits until somebody calls `start`; for the time of a lease that can
        only be this replica, afterwards any.

        Until it is known that the run can be, nothing is written. `run_id` is the id that it shall have, decided before
        by whoever must find it again; None makes one.

        Raises:
            BadRequest, NotFound, UnknownModel, UnpricedModel, MissingApiKey: what the request asks for cannot be.
            BudgetTooSmall: its own limits do not cover its first call.
            BudgetExceeded, BudgetInFlight: nor does what is left to its session, key or tenant.
            SandboxRefused, NoSandboxSlot: this machine cannot run it.
            QuotaExceeded: it goes deeper than its tenant or a key may have sandboxes.
            ConcurrencyLimited: as many runs wait as may.
            RunIdTaken: there is a run of this id already.
            StoreFailed: whether anything was submitted is unknown.
        """
        await anyio.to_thread.run_sync(check_request, request)
        self.rooms.slots.check(request.limits.depth + 1)
        await self.rooms.provider.isolation()
        session_id = request.session_id
        if session_id is not None:
            record = await self.rooms.session.records.get(session_id)
            if record.closed_at is not None:
                raise BadRequest(f"session {session_id} is closed: submit without a session, or open another one")
            if record.details.is_paused:
                raise SessionPaused(f"session {session_id} is paused: resume it first")
        target = run_id or RunId(new_id("run"))
        submitted = await submitted_event(self.rooms, request, session_id or own_session_of(target), run_id=target)

        async def prepare() -> None:
            await keep_named(self.rooms, request)
            if session_id is None:
                await keep_session(self.rooms, submitted.session_id)

        await self.open(submitted, (), prepare)
        return submitted.run_id

    async def open(
        self, submitted: RunSubmitted, inherited: Sequence[Event], prepare: Callable[[], Awaitable[None]]
    ) -> None:
        """Journal a run whose first event is made, with the events that it inherits, once it is known that it can be
        paid; what it needs is prepared right before. Like `submit` in everything else, and raises the same.
        """
        route = await self.rooms.route_to(submitted.root_model)
        least = first_call_amount(submitted, route, inherited)
        check_affordable(submitted, route, least)
        purse = Purse(submitted, self.rooms.ledger)
        dispatch = self.rooms.dispatch
        await dispatch.check_chain(submitted)
        await dispatch.set_allowances(submitted.key_line)
        await purse.check_covers(least)
        await dispatch.place_of(submitted).enter(begins_at_once=self._seats.can_begin(submitted))
        try:
            await prepare()
            await purse.set_limits()
            leases = self.rooms.leases
            await self.rooms.journal.open_run(submitted, inherited, keeper=leases.replica, for_s=leases.for_s)
        except RunIdTaken:
            if not self.is_live(submitted.run_id):
                dispatch.run_was_left(submitted.run_id)  # that run's own driver renews its place, if it has one yet
            raise
        except BaseException:
            await dispatch.run_has_ended(submitted.run_id)
            raise

    def start(self, run_id: RunId) -> None:
        """Claim a run and drive it in this replica's task group, from wherever it stands. Calling it for a live run
        changes nothing; neither does it for one that another replica drives, or that has finished.
        """
        if run_id not in self._live:
            live = self._live[run_id] = _Live()
            self._tasks.start_soon(self._drive, run_id, live)

    def is_live(self, run_id: RunId) -> bool:
        """Whether this replica drives the run, or is about to, or is still letting it go."""
        return run_id in self._live

    @property
    def live(self) -> int:
        """How many runs that are."""
        return len(self._live)

    async def abandoned(self, limit: int) -> list[RunId]:
        """Unfinished runs that no replica drives, longest abandoned first: any may `start` them."""
        return await self.rooms.journal.abandoned(limit)

    def end_of(self, run_id: RunId) -> anyio.Event | None:
        """Set once this replica has stopped driving the run; None for one that it does not drive."""
        live = self._live.get(run_id)
        return None if live is None else live.ended

    def follow(self, run_id: RunId, after: int = 0) -> AsyncIterator[Recorded]:
        """The run's events from behind `after`, as they come, ending with `RunFinished`, unless it is erased."""
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

    async def is_abandoned(self, run_id: RunId) -> bool:
        """Whether it is unfinished and nobody drives it: it goes on when a replica of `serve` takes it over."""
        return await self.rooms.journal.is_abandoned(run_id)

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
            yield direct_answer(await self.rooms.events_of(run_id)).encode("utf-8", "replace")

    async def open_session(self) -> SessionId:
        """A session that runs can be submitted to one after the other, keeping its variables between them."""
        return await new_session(self.rooms)

    async def close_session(self, session_id: SessionId) -> None:
        """End the session's sandbox, if it has one: at the end of the run that is in it, which is not waited for; at
        another replica soon after it is idle. Idempotent.
        """
        # First the record, so that no further run comes in; then the sandbox, once the last one is out.
        await self.rooms.session.records.close(session_id)
        await self._seats.close(session_id)

    async def stop(self) -> None:
        """Called before closing. Where runs are handed over, `let_go`; otherwise cancel every live run and wait until
        each has settled and said its last word.
        """
        if self.rooms.leases.hands_over:
            await self.let_go()
            return
        for run_id in list(self._live):
            with contextlib.suppress(StoreFailed, NotFound):  # a run without its store is stopping by itself
                await self.cancel(run_id)
        await self._wait_until_ended()

    async def let_go(self) -> None:
        """Hand every live run over at its next safe point, without cancelling it: its lease is given up, and whoever
        claims it goes on from there. None is begun here any more. Idempotent.
        """
        self._is_leaving = True
        async with anyio.create_task_group() as leaving:
            for live in list(self._live.values()):
                if live.tenure is not None:
                    leaving.start_soon(live.tenure.hand_over)
        await self._wait_until_ended()

    async def _wait_until_ended(self) -> None:
        with anyio.move_on_after(STOP_WITHIN_S):
            for live in list(self._live.values()):
                await live.ended.wait()
        await self._seats.close_all()

    async def _drive(self, run_id: RunId, live: _Live) -> None:
        is_left = True
        try:
            tenure = live.tenure = await self._drives.claim_root(run_id)
        except (RunKept, RunAlreadyFinished):
            log.info("run_not_claimed", run_id=run_id)
        except RlmServiceError as exc:
            is_left = not await self._end(run_id, exc)
        else:
            if self._is_leaving:
                tenure.end()
            is_left = not await self._drive_to_last_word(tenure)
        finally:
            try:
                if is_left:
                    self.rooms.dispatch.run_was_left(run_id)
                else:
                    await self.rooms.dispatch.run_has_ended(run_id)
            finally:
                self._live.pop(run_id).ended.set()

    async def _drive_to_last_word(self, tenure: Tenure) -> bool:
        """Whether the run has ended, as far as that could be written down; False for one that is left to others."""
        try:
            await self._drives.drive_root(tenure)
        except Exception as exc:  # noqa: BLE001 -- one of the few boundaries: a run's failure must not end the others
            if not tenure.is_left_after(exc):
                return await self._end(tenure.run_id, sole_failure(exc))
            log.warning("run_left", run_id=tenure.run_id, epoch=tenure.epoch, why=str(sole_failure(exc)))
        else:
            if not tenure.is_over:
                return True
            log.info("run_handed_over", run_id=tenure.run_id, epoch=tenure.epoch)
        # Without effect on a run that somebody else has by now; without a store, the lease runs out by itself.
        with anyio.move_on_after(LET_GO_WITHIN_S, shield=True), contextlib.suppress(StoreFailed):
            await self.rooms.journal.let_go(tenure.run_id, tenure.epoch)
        return False

    async def _end(self, run_id: RunId, failure: BaseException) -> bool:
        """The last word of a run that cannot go on anywhere, or that nobody else would drive; whether it was said."""
        if isinstance(failure, StoreFailed) and self.rooms.leases.hands_over:
            log.warning("run_left", run_id=run_id, why=str(failure))
            return False
        return await say_last_word(self.rooms, run_id, failure, None)
