"""Seats: what a run needs on this replica before its first command is performed, and until its last.

A run's seat is its sandbox slots, guaranteed for every level of its depth at once, and its session. Among replicas a
session belongs to one run at a time: the one that claimed it, until it has finished. A session that outlives its runs
keeps its own slot between them, but never while it waits for more, and never while others wait: it then gives its
sandbox up, and its log brings the variables back. So no two runs ever hold and wait for each other.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio

from service.errors import NotFound
from service.ids import RunId, SessionId
from service.journal.values import SessionUsed
from service.loop.events import RunSubmitted
from service.runs.dispatch.dispatch import Dispatch
from service.runs.dispatch.sandbox_counts import SandboxCount
from service.runs.driving.kept_sessions import Kept, KeptSessions, SessionBusy, Sitting, refused_where_taken
from service.runs.driving.levels import Levels
from service.runs.rooms import RunsRooms
from service.runs.sessions.open_session import OpenSession
from service.sandboxes.slots import Chain, Slots
from service.store.fences import Fence
from service.tenants.quotas import Counted

LEAVES_WITHIN_S = 30.0
"""A run that has ended is out of its session within this time, unless the machine stands still."""


class Seat:
    """One run's seat. Made by `Seats`; taken once, left once, from whatever task."""

    def __init__(self, seats: "Seats", submitted: RunSubmitted, fence: Fence, levels: Levels | None = None) -> None:
        self._seats = seats
        self._submitted = submitted
        self.sandboxes = seats.dispatch.sandboxes_of(submitted, fence)
        """What a root run takes; a child run takes from those of its root, through `levels`."""
        self.fence = fence
        """Of what the run logs for its session: the run's, or in a kept session that of its claim."""
        self.levels = levels
        """The slots below this run, once it is seated. A child run shares its root's."""
        self._leave = AsyncExitStack()

    async def take(self) -> OpenSession:
        """Wait for the seat.

        Raises:
            NoSandboxSlot: it could not be had until the run's deadline.
            TenantSuspended: it is not to be had.
        """
        if self.levels is not None:
            return self._new_session()
        place = self._seats.dispatch.place_of(self._submitted)
        await place.wait_for_turn()
        if self._submitted.keeps_session:
            session = await self._seats.sit_in_kept(self._submitted, self, self._leave)
        else:
            self._leave.push_async_callback(self.sandboxes.give_chain_back)
            chain = await self._seats.admit(self.sandboxes, self._submitted, self._submitted.limits.depth + 1)
            self._leave.callback(self._seats.slots.give_up, chain)
            self.levels = Levels(chain, self.sandboxes, first_depth=0)
            await self._leave.enter_async_context(self.levels.slot(0))
            session = self._new_session()
        await place.has_begun()
        return session

    def _new_session(self) -> OpenSession:
        session = self._seats.new_session(self._submitted.session_id)
        self._leave.push_async_callback(session.close)
        return session

    async def leave(self) -> None:
        """Give back what was taken, whatever of it that is. Idempotent."""
        with anyio.CancelScope(shield=True):
            await self._leave.aclose()


class Seats:
    """The seats of one tenant on this replica."""

    def __init__(self, rooms: RunsRooms, kept: KeptSessions) -> None:
        self._rooms = rooms
        self._kept = kept.by_id

    def __repr__(self) -> str:
        return f"<Seats kept_sessions={len(self._kept)} {self._rooms.slots!r}>"

    @property
    def slots(self) -> Slots:
        return self._rooms.slots

    def seat_for(self, submitted: RunSubmitted, fence: Fence) -> Seat:
        """A root run's seat, yet to be taken."""
        return Seat(self, submitted, fence)

    def child_seat(self, submitted: RunSubmitted, fence: Fence, levels: Levels) -> Seat:
        """The seat of a child run, whose slot its parent's side holds already."""
        return Seat(self, submitted, fence, levels)

    def new_session(self, session_id: SessionId) -> OpenSession:
        return OpenSession(session_id, rooms=self._rooms.session)

    @property
    def dispatch(self) -> Dispatch:
        return self._rooms.dispatch

    async def admit(self, sandboxes: SandboxCount, submitted: RunSubmitted, levels: int) -> Chain:
        """Guarantee the levels, waiting until the run's deadline: first for what its tenant may have, then for its turn
        among all tenants."""
        if not await sandboxes.take_chain_now(levels):
            for kept in list(self._kept.values()):
                if kept.tenant == self.dispatch.tenant:
                    await self.end_idle(kept)
            await sandboxes.wait_for_chain(levels)
        async with self.dispatch.lines.run_starts.taken(self.dispatch.tenant, cost=levels):
            at_once = self._rooms.slots.guarantee_now(levels)
            if at_once is not None:
                return at_once
            for kept in list(self._kept.values()):
                await kept.end_idle(kept)
            waiting_s = max(1.0, submitted.deadline_at - self._rooms.now())
            return await self._rooms.slots.guarantee(levels, deadline_s=waiting_s)

    def can_begin(self, submitted: RunSubmitted) -> bool:
        """Whether a run that came now would have to wait here neither for slots nor for its session."""
        sitting = self.sitting(submitted.session_id)
        is_free = sitting is None or sitting.run_id is None
        has_slots = self._rooms.slots.shares.spare > submitted.limits.depth
        return is_free and has_slots and bool(self.dispatch.lines.run_starts.free)

    async def sit_in_kept(self, submitted: RunSubmitted, seat: Seat, leave: AsyncExitStack) -> OpenSession:
        """Take a seat in a session that outlives the run. Called by `Seat` only."""
        session_id = submitted.session_id
        kept = self._kept.setdefault(
            session_id, Kept(self.new_session(session_id), self.dispatch.tenant, self.end_idle, self.is_left)
        )
        await kept.turnstile.acquire()
        leave.push_async_callback(self._let_out, kept)
        kept.run_id = submitted.run_id
        leave.callback(self._rise, kept)
        leave.push_async_callback(seat.sandboxes.give_chain_back)
        leave.push_async_callback(self._keep_counted, kept, seat.sandboxes)
        await self._claim(kept, submitted, seat)
        record = await self._rooms.session.records.get(session_id)
        kept.is_closed = kept.is_closed or record.closed_at is not None
        depth = submitted.limits.depth
        below = None
        if kept.slot is not None:
            await self._uncount(kept)
            if await seat.sandboxes.take_chain_now(depth + 1):
                below = self._rooms.slots.guarantee_now(depth)
        if below is None:
            await self._stand_up(kept)
            whole = await self.admit(seat.sandboxes, submitted, depth + 1)
            kept.slot, below = self._rooms.slots.split(whole, 1)
        leave.callback(self._rooms.slots.give_up, below)
        if kept.slot is not None and not kept.is_in_slot:
            await kept.in_slot.enter_async_context(kept.slot.take(0))
            kept.is_in_slot = True
        seat.levels = Levels(below, seat.sandboxes, first_depth=1)
        return kept.session

    async def _claim(self, kept: Kept, submitted: RunSubmitted, seat: Seat) -> None:
        """Make the session this run's among all replicas, waiting for a run elsewhere that uses it."""
        records, session_id = self._rooms.session.records, submitted.session_id
        while True:
            try:
                epoch = await records.claim(session_id, submitted.run_id, seat.fence)
                break
            except SessionUsed as exc:
                await self._rooms.journal.wait_until_finished(RunId(str(exc.data["run_id"])))
        if epoch != kept.epoch + 1:
            # A run elsewhere has used it since: what stands in this sandbox is not what its log says.
            await kept.session.close()
        kept.epoch = epoch
        # The run's own epoch need not stand: whoever takes the run over claims the session before reading its log.
        seat.fence = records.fence(session_id, epoch)

    async def _keep_counted(self, kept: Kept, sandboxes: SandboxCount) -> None:
        await self._make_way(kept)
        if kept.is_in_slot and not await sandboxes.keep_for(kept.session.session_id):
            await self._stand_up(kept)

    async def _uncount(self, kept: Kept) -> None:
        """The sandbox of an idle session, which is a run's again or is no more. Where the session was used elsewhere
        since, the count is of the sandbox there."""
        session_id = kept.session.session_id
        fence = self._rooms.session.records.fence(session_id, kept.epoch)
        await self.dispatch.counts.give_back(Counted.SANDBOXES, session_id, within=fence)

    async def _make_way(self, kept: Kept) -> None:
        """At the end of a run: the session keeps its sandbox, unless somebody waits for a slot or it is closed."""
        if kept.is_closed or not kept.is_in_slot or self._rooms.slots.is_contended:
            await self._stand_up(kept)
        if kept.is_closed and self._kept.get(kept.session.session_id) is kept:
            del self._kept[kept.session.session_id]

    def _rise(self, kept: Kept) -> None:
        kept.run_id = None

    def sitting(self, session_id: SessionId) -> Sitting | None:
        """The session as it stands on this replica; None where nothing of it is here."""
        kept = self._kept.get(session_id)
        if kept is None or kept.tenant != self.dispatch.tenant:
            return None
        return Sitting(kept.session, kept.run_id, has_sandbox=kept.is_in_slot)

    async def forget_outdated(self, session_id: SessionId) -> None:
        """End what is kept here of a session that was used on another replica since: its log has the rest.

        Raises:
            SessionBusy: a run is in it here, and has just lost it.
        """
        kept, records = self._kept.get(session_id), self._rooms.session.records
        if kept is None or kept.tenant != self.dispatch.tenant or await records.epoch_of(session_id) == kept.epoch:
            return
        async with self.between_runs(session_id, patience_s=LEAVES_WITHIN_S) as session:
            if session is not None and await records.epoch_of(session_id) != kept.epoch:
                await self._stand_up(kept)
        self._forget_if_left(kept)

    async def taken(self, session_id: SessionId, epoch: int) -> OpenSession:
        """A session that no run is in and nothing of which is here, to be changed without a sandbox.

        Raises:
            SessionBusy: it is not at that epoch any more.
        """
        records = self._rooms.session.records
        session = self.new_session(session_id)
        with refused_where_taken(session_id):
            session.fence_by(records.fence(session_id, await records.take(session_id, epoch)))
        return session

    @contextlib.asynccontextmanager
    async def between_runs(
        self, session_id: SessionId, *, patience_s: float = 0.0
    ) -> AsyncIterator[OpenSession | None]:
        """The session while no run is in it, kept free of them until the block is left; None where it is not here.
        With patience it waits for the run that is in it, and for those that wait already.

        Raises:
            SessionBusy: a run is in it now.
        """
        kept = self._kept.get(session_id)
        if kept is None or kept.tenant != self.dispatch.tenant:
            yield None
            return
        try:
            if kept.turnstile.value or not patience_s:
                kept.turnstile.acquire_nowait()
            else:
                with anyio.fail_after(patience_s):
                    await kept.turnstile.acquire()
        except (anyio.WouldBlock, TimeoutError):
            raise SessionBusy(f"session {session_id} is in use by a run: wait for it, or cancel it") from None
        try:
            yield kept.session
        finally:
            await self._let_out(kept)

    async def rest(self, session_id: SessionId) -> None:
        """End the session's sandbox, which its log brings back. Raises `SessionBusy`."""
        async with self.between_runs(session_id, patience_s=LEAVES_WITHIN_S) as session:
            kept = self._kept.get(session_id)
            if session is not None and kept is not None:
                await self._stand_up(kept)

    async def is_left(self, kept: Kept) -> bool:
        """Whether nobody comes back to the session's sandbox here, by its record."""
        try:
            record = await self._rooms.session.records.get(kept.session.session_id)
        except NotFound:
            return True
        return record.closed_at is not None or record.details.is_paused or record.epoch != kept.epoch

    async def end_idle(self, kept: Kept) -> None:
        """End the sandbox of a session, unless somebody has come for it."""
        with contextlib.suppress(anyio.WouldBlock):
            kept.turnstile.acquire_nowait()
            try:
                await self._stand_up(kept)
            finally:
                kept.turnstile.release()
            self._forget_if_left(kept)

    def _forget_if_left(self, kept: Kept) -> None:
        """An entry without a sandbox is worth nothing, and there may be any number of sessions."""
        nobody_comes = bool(kept.turnstile.value) and not kept.turnstile.statistics().tasks_waiting
        if nobody_comes and not kept.is_in_slot and self._kept.get(kept.session.session_id) is kept:
            del self._kept[kept.session.session_id]

    async def close(self, session_id: SessionId) -> None:
        """End the session's sandbox now, or at the end of the run that uses it; that is not waited for. Idempotent."""
        kept = self._kept.get(session_id)
        if kept is not None:
            kept.is_closed = True
            await self._end_closed(kept)

    async def _let_out(self, kept: Kept) -> None:
        """Whoever was in the session leaves it, and ends it if it was closed meanwhile."""
        kept.turnstile.release()
        if kept.is_closed:
            await self._end_closed(kept)

    async def _end_closed(self, kept: Kept) -> None:
        """End a closed session's sandbox, unless somebody is in it, who will."""
        with contextlib.suppress(anyio.WouldBlock):
            kept.turnstile.acquire_nowait()
            try:
                await self._make_way(kept)
            finally:
                kept.turnstile.release()

    async def close_all(self) -> None:
        """End every kept sandbox of this tenant; no run uses them any more."""
        for session_id, kept in list(self._kept.items()):
            if kept.tenant == self.dispatch.tenant and self._kept.pop(session_id, None) is not None:
                await self._stand_up(kept)

    async def _stand_up(self, kept: Kept) -> None:
        """End the session's sandbox and let its slot go."""
        with anyio.CancelScope(shield=True):
            await kept.session.close()
            await kept.in_slot.aclose()
            kept.in_slot, kept.is_in_slot = AsyncExitStack(), False
            await self._uncount(kept)
        if kept.slot is not None:
            slot, kept.slot = kept.slot, None
            self._rooms.slots.give_up(slot)
