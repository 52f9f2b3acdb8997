"""Direct cells: code that a caller runs in a session, what it prints while it runs, and how it ended."""

import codecs
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Literal

import anyio

from service.ids import CellId, RunId, SessionId, cell_id
from service.journal.refusals import absent
from service.journal.values import Recorded, RunIdTaken
from service.loop.events import CellFinished, NamespaceRebuilt, RunFinished, RunSubmitted
from service.loop.values import CellResult, Limits
from service.runs.driving.kept_sessions import SessionBusy, refused_where_taken
from service.runs.runs import Runs
from service.runs.session_use.sessions import SessionDesk
from service.runs.session_use.values import CellAsked, CellDone, Elsewhere, Printed, Silence
from service.runs.values import NO_MODEL, RunRequest
from service.sandboxes.output import OutputOffsets, StreamPiece
from service.sandboxes.port import SandboxGone

LOOK_S = (0.02, 0.25)
"""How often a running cell's output is looked at: the shortest pause, and the longest while it prints nothing."""
SILENCE_S = 10.0
"""A cell that prints nothing is said to be silent this often."""
WAKE_S = 600.0
"""For a sandbox to come up with everything that was in it; a cell log may take as long as its cells took."""
STOP_WITHIN_S = 60.0

Heard = Printed | Silence | Elsewhere | CellDone
"""What whoever watches a cell is told, one after the other."""


class DirectCells:
    """Runs cells in a tenant's sessions."""

    def __init__(self, runs: Runs, desk: SessionDesk) -> None:
        self._runs = runs
        self.desk = desk

    async def start(self, session_id: SessionId, asked: CellAsked, run_id: RunId | None = None) -> RunId:
        """Begin the cell, once whatever is in the session has ended; `done` and `watch` tell how it goes. `run_id` is
        the id that it shall have, decided before by whoever must find it again; with one that has begun nothing is
        begun again.

        Raises:
            NotFound, BadRequest: there is no such session, it is closed, or the cell cannot be.
            SessionPaused
            Whatever else `Runs.submit` raises.
        """
        record = await self.desk.check_open(session_id)
        model = asked.sub_model or record.details.sub_model or NO_MODEL
        limits = Limits(depth=0, wall_s=asked.wall_s, cell_active_s=asked.active_s, cost=asked.cost)
        request = RunRequest(
            question="",
            contexts=asked.contexts,
            root_model=model,
            sub_model=model,
            limits=limits,
            session_id=session_id,
            code=asked.code,
            on_divergence="tell",  # else a session whose cells diverge could not even be looked at
            key_id=asked.key_id,
            key_ancestors=asked.key_ancestors,
        )
        try:
            submitted = await self._runs.submit(request, run_id)
        except RunIdTaken:
            assert run_id is not None, "an id that was made just now is nobody else's"
            return run_id
        self._runs.start(submitted)
        return submitted

    async def done(self, run_id: RunId) -> CellDone:
        """How the cell ended; waits for that.

        Raises:
            NotFound: there is no such run, or it was erased meanwhile.
        """
        result: CellResult | None = None
        rebuilt: NamespaceRebuilt | None = None
        async with aclosing(_closable(self._runs.follow(run_id))) as events:
            async for recorded in events:
                match recorded.event:
                    case CellFinished():
                        result = recorded.event.result
                    case NamespaceRebuilt():
                        rebuilt = recorded.event
                    case RunFinished() as finished:
                        return CellDone(
                            run_id=run_id,
                            stop_reason=finished.stop_reason,
                            result=result,
                            rebuilt=rebuilt,
                            message=finished.message,
                            spent=finished.spent,
                        )
                    case _:
                        continue
        raise absent(run_id)  # erased meanwhile

    async def watch(self, session_id: SessionId, run_id: RunId) -> AsyncGenerator[Heard, None]:
        """What the cell prints, as it prints it, and at last how it ended.

        Whoever reads slowly misses the middle of what was printed meanwhile, and is told how much; the cell never
        waits for them. A cell that runs on another replica is said to be there (`Elsewhere`), and heard of at its end.
        """
        reader = _OutputReader(self._runs, session_id, cell_id(run_id, 1, 0))
        end = self._runs.end_of(run_id)
        if end is None:
            async for told in self._wait_for_others(run_id):
                yield told
        pause_s, silent_s = LOOK_S[0], 0.0
        while end is not None and not reader.is_all:
            is_over = end.is_set()
            found = await reader.look()
            for piece in found:
                yield piece
            if not found and is_over:
                break
            if found:
                pause_s, silent_s = LOOK_S[0], 0.0
                continue
            with anyio.move_on_after(pause_s):
                await end.wait()
            silent_s, pause_s = silent_s + pause_s, min(pause_s * 1.5, LOOK_S[1])
            if silent_s >= SILENCE_S:
                silent_s = 0.0
                yield Silence()
        done = await self.done(run_id)
        for piece in reader.rest():
            yield piece
        yield done

    async def _wait_for_others(self, run_id: RunId) -> AsyncGenerator[Heard, None]:
        """Until the cell has ended on the replica where it runs; nothing for one that has."""
        journal = self._runs.rooms.journal
        if (await journal.last_seq(run_id))[1]:
            return
        yield Elsewhere()
        while not await journal.wait_for_end(run_id, at_most_s=SILENCE_S, unless=lambda: False):
            yield Silence()

    async def interrupt(self, session_id: SessionId) -> None:
        """Stop the direct cell that runs in the session now, if one does; its variables stay. Idempotent.

        Raises:
            NotFound
            SessionBusy: what runs is not a direct cell; cancel that run instead.
        """
        await self.desk.get(session_id)
        run_id = await self.desk.run_in(session_id)
        if run_id is None:
            return
        (first, *_) = await self._runs.rooms.journal.read(run_id, limit=1)
        if isinstance(first.event, RunSubmitted) and first.event.code is None:
            raise SessionBusy(f"run {run_id} is in session {session_id}: cancel the run")
        await self._runs.cancel(run_id)

    async def restart(self, session_id: SessionId) -> None:
        """Empty the namespace for good, ending the direct cell that runs. Files stay.

        Raises:
            NotFound, BadRequest, SessionPaused: as `start`.
            SessionBusy: a run is in it, or the cell does not end, or runs on another replica.
        """
        await self.desk.check_open(session_id)
        await self.interrupt(session_id)
        # Before it is asked whether a run is in it: one that comes later makes this epoch an old one.
        epoch = await self._runs.rooms.session.records.epoch_of(session_id)
        run_id = await self.desk.run_in(session_id)
        sitting = self._runs.seats.sitting(session_id)
        if run_id is not None and (sitting is None or sitting.run_id is None):
            raise SessionBusy(
                f"run {run_id} is in session {session_id} on another replica: try again when it has ended"
            )
        seats = self._runs.seats
        await seats.forget_outdated(session_id)
        async with seats.between_runs(session_id, patience_s=STOP_WITHIN_S) as session:
            with refused_where_taken(session_id):
                await (session or await seats.taken(session_id, epoch)).restart()

    async def wake(self, session_id: SessionId) -> None:
        """See to it that the session has its sandbox, by an empty cell if it has none.

        Raises:
            NotFound, BadRequest, SessionPaused: as `start`.
            SandboxGone: it did not come up in time.
        """
        await self.desk.check_open(session_id)
        await self._runs.seats.forget_outdated(session_id)
        sitting = self._runs.seats.sitting(session_id)
        sandbox = None if sitting is None else sitting.session.sandbox
        if sandbox is None or not sandbox.is_running:
            await self.bring_back(session_id)

    async def bring_back(self, session_id: SessionId) -> None:
        """See to it that the session has its sandbox and its variables, by an empty cell. Raises what `wake` does."""
        done = await self.done(await self.start(session_id, CellAsked(code="", wall_s=WAKE_S)))
        if done.result is None:
            raise SandboxGone(f"session {session_id} has no sandbox: {done.message or done.stop_reason}")


class _OutputReader:
    """One reader's place in what a cell prints."""

    def __init__(self, runs: Runs, session_id: SessionId, cell: CellId) -> None:
        self._runs = runs
        self._session_id = session_id
        self._cell_id = cell
        self._after = OutputOffsets()
        self._decoders = {"stdout": _decoder(), "stderr": _decoder()}
        self.is_all = False
        """Whether the cell has ended and everything it printed was given."""

    async def look(self) -> list[Printed]:
        """What has come since the last look; nothing where the cell is not to be heard."""
        sitting = self._runs.seats.sitting(self._session_id)
        sandbox = None if sitting is None else sitting.session.sandbox
        if sandbox is None or not sandbox.is_running:
            return []
        try:
            output = await sandbox.output(self._cell_id, self._after)
        except SandboxGone:
            return []
        if output is None:
            return []
        self._after, self.is_all = output.next_offsets, output.is_all
        return [*self._decoded("stdout", output.stdout), *self._decoded("stderr", output.stderr)]

    def rest(self) -> list[Printed]:
        """What half a character at the end comes to."""
        return [
            *self._decoded("stdout", _END, is_final=True),
            *self._decoded("stderr", _END, is_final=True),
        ]

    def _decoded(
        self, stream: Literal["stdout", "stderr"], piece: StreamPiece, *, is_final: bool = False
    ) -> list[Printed]:
        text = ""
        if piece.missed:
            text = self._decoders[stream].decode(b"", final=True)
            self._decoders[stream].reset()
        found = [Printed(stream=stream, text=text, missed_bytes=0)] if text else []
        text = self._decoders[stream].decode(piece.data, final=is_final)
        if text or piece.missed:
            found.append(Printed(stream=stream, text=text, missed_bytes=piece.missed))
        return found


_END = StreamPiece(data=b"", missed=0, next_byte=0, is_all=True)


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("backslashreplace")


async def _closable(events: AsyncIterator[Recorded]) -> AsyncGenerator[Recorded, None]:
    async for recorded in events:
        yield recorded
