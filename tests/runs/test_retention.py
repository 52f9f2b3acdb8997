"""Retention: runs whose time is over are forgotten, and nothing else is."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from service.errors import NotFound
from service.ids import KeyId, RunId, SessionId, born_at, new_id
from service.journal.redis_journal import Journal
from service.journal.values import SessionRecord
from service.loop.events import ChildRunFinished, Event, RunFinished, RunSubmitted
from service.loop.values import Limits, Message, StopReason
from service.runs.direct.direct_calls import DirectCalls
from service.runs.direct.values import DirectRequest
from service.runs.driving.drives import Drives
from service.runs.forks.forking import fork
from service.runs.forks.values import ForkRequest
from service.runs.holdings.holdings import Holdings
from service.runs.replay.replaying import replay
from service.runs.retention.forgetting import forget_runs, is_due, keep_forgetting
from service.runs.retention.forgetting_sessions import forget_sessions, is_session_due
from service.runs.rooms import RunsRooms
from service.store.blobs import Blobs
from service.store.errors import BlobMissing
from service.store.fences import NO_FENCE, Fence
from service.tenants.quotas import Counted
from service.tenants.values import CallerLimits, Level
from tests.runs.doubles import submitted_run
from tests.runs.playing import SUB, Stage, repl, stage

pytestmark = pytest.mark.anyio

FOR_EVER = 9e12
"""Later than everything."""
RECORD = SessionRecord(session_id=SessionId(new_id("ses")), created_at=0.0, random_seed=1)


async def for_ever() -> float:
    return FOR_EVER


async def keys_of(on: Stage, kind: str, name: str) -> list[str]:
    """What there is under an id, besides the entries of the ledger."""
    reply = await on.service.store.read("KEYS", f"rlm:{{default}}:{kind}:{name}*")
    assert isinstance(reply, list)
    return [key.decode() for key in reply if isinstance(key, bytes) and not key.endswith(b":entries")]


def test_what_is_due_has_ended_and_nobody_needs_it() -> None:
    """Not a run that goes on or ended lately, nor one whose session is open or was closed lately."""
    run = submitted_run(RunId(new_id("run")), limits=Limits(), deadline_at=0.0)
    kept = replace(run, keeps_session=True)
    session = SessionRecord(session_id=SessionId(new_id("ses")), created_at=0.0, random_seed=1)
    assert not is_due(run, None, None, before=20.0)
    assert not is_due(run, 10.0, None, before=10.0)
    assert is_due(run, 10.0, session, before=20.0)
    assert is_due(kept, 10.0, None, before=20.0)
    assert not is_due(kept, 10.0, session, before=20.0)
    assert not is_due(kept, 10.0, replace(session, closed_at=30.0), before=20.0)
    assert is_due(kept, 10.0, replace(session, closed_at=15.0), before=20.0)


async def test_a_forgotten_run_leaves_what_it_spent_and_nothing_else(tmp_path: Path) -> None:
    """It goes with its child runs and their sessions; before its time it stays; a fork of it lives on by itself; asking
    again finds nothing more to do."""
    parent = repl("found = rlm_query('inner question', context='stuff')")
    async with stage(tmp_path, parent, repl("FINAL('inner')"), repl("FINAL(found)")) as on:
        rooms = on.service.runs.rooms
        played = await on.play(await on.request("four"))
        (child,) = [event.child.run_id for event in played.events if isinstance(event, ChildRunFinished)]
        view = await on.service.runs.show(played.run_id)
        born = born_at(played.run_id)
        assert born is not None
        ends = await rooms.journal.ends_of(child)
        assert ends is not None
        given, _ = ends
        assert await keys_of(on, "context", given.bindings[0].context_id)
        assert (await forget_runs(rooms, before=born)).forgotten == 0
        forked = await fork(on.service.runs, played.run_id, ForkRequest(from_turn=2))
        assert await keys_of(on, "run", played.run_id)
        spent = sum(entry.nano_usd for entry in await on.service.runs.rooms.ledger.entries(played.run_id))
        look = await forget_runs(rooms, before=FOR_EVER)
        assert (look.forgotten, look.after) == (1, None)
        with pytest.raises(NotFound):
            await on.service.runs.show(played.run_id)
        assert [run.run_id for run in await on.service.runs.ls(10)] == [forked]
        for kind, name in (("run", played.run_id), ("run", child), ("session", view.session_id)):
            assert await keys_of(on, kind, name) == []
        assert await keys_of(on, "context", given.bindings[0].context_id) == []
        assert len(await rooms.contexts.list()) == 1, "what the run itself was about stays"
        assert sum(entry.nano_usd for entry in await on.service.runs.rooms.ledger.entries(played.run_id)) == spent > 0
        on.service.runs.start(forked)
        events = [entry.event async for entry in on.service.runs.follow(forked)]
        assert isinstance(events[-1], RunFinished)
        assert events[-1].stop_reason is StopReason.ANSWERED
        assert (await replay(on.service.runs, forked, patience_s=120)).difference is None
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 1
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 0


async def test_a_child_run_takes_no_context_of_the_tenants_own_with_it(tmp_path: Path) -> None:
    """Earlier releases gave a child the tenant's context of the same content: that one stays after the child."""
    parent = repl("found = rlm_query('inner question', context='stuff')")
    async with stage(tmp_path, parent, repl("FINAL('inner')"), repl("FINAL(found)")) as on:
        rooms = on.service.runs.rooms
        played = await on.play(await on.request("four"))
        (child,) = [event.child.run_id for event in played.events if isinstance(event, ChildRunFinished)]
        ends = await rooms.journal.ends_of(child)
        assert ends is not None
        (given,) = ends[0].bindings
        # As an earlier release left it: listed, because it is the tenant's.
        await on.service.store.write("ZADD", "rlm:{default}:contexts", 0, given.context_id)
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 1
        assert (await rooms.contexts.get(given.context_id)).context_id == given.context_id


async def test_runs_of_an_open_session_are_kept_until_it_is_closed(tmp_path: Path) -> None:
    """Their host calls bring its variables back; closed for long enough, the session goes with them."""
    async with stage(tmp_path, repl("x = llm_query('once')\nFINAL(x)")) as on:
        rooms = on.service.runs.rooms
        session_id = await on.service.runs.open_session()
        await on.play(await on.request("four", session_id=session_id))
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 0
        await on.service.runs.close_session(session_id)
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 1
        assert await keys_of(on, "session", session_id) == []


class Lost(BaseException):
    """The replica is lost. No `except Exception` of it may notice."""


class DiesBeginning(Journal):
    """A journal that is lost when a child run is begun: before that, or right after."""

    is_opened = False

    async def open_run(
        self,
        submitted: RunSubmitted,
        inherited: Sequence[Event] = (),
        *,
        keeper: str = "",
        for_s: float = 0.0,
        within: Fence = NO_FENCE,
    ) -> int:
        if self.is_opened:
            await super().open_run(submitted, inherited, keeper=keeper, for_s=for_s, within=within)
        raise Lost


async def test_a_child_that_was_hardly_begun_leaves_nothing_for_ever(tmp_path: Path) -> None:
    """A replica that is lost before its child is journalled has kept nothing of it; if right after, whoever goes on
    gives the child what it was to have; and with the run all of it is forgotten."""
    parent = repl("found = rlm_query('inner question', context='stuff')")
    async with stage(tmp_path, parent, repl("FINAL(context)"), repl("FINAL(found)")) as on:
        runs, rooms = on.service.runs, on.service.runs.rooms
        run_id = await runs.submit(await on.request("four"))
        kept = {kind: await keys_of(on, kind, "") for kind in ("context", "session")}
        for is_opened in (False, True):
            journal = DiesBeginning(on.service.store, on.service.blobs, rooms.journal.tenant)
            journal.is_opened = is_opened
            drives = Drives(replace(rooms, journal=journal), runs.seats)
            tenure = await drives.claim_root(run_id)
            with anyio.fail_after(60), pytest.raises(BaseExceptionGroup):
                await drives.drive_root(tenure)
            assert len(await rooms.journal.children_of(run_id)) == int(is_opened)
            assert await keys_of(on, "context", "") == kept["context"]
            assert {key.split(":")[3] for key in await keys_of(on, "session", "")} == {
                key.split(":")[3] for key in kept["session"]
            }
        runs.start(run_id)
        with anyio.fail_after(60):
            events = [entry.event async for entry in runs.follow(run_id)]
        assert b"".join([chunk async for chunk in runs.answer_chunks(run_id)]) == b"stuff"
        assert isinstance(events[-1], RunFinished)
        assert len(await rooms.journal.children_of(run_id)) == 1
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 1
        assert await keys_of(on, "context", "") == kept["context"]
        assert await keys_of(on, "session", "") == []


class Unreadable(Journal):
    """A journal in which some runs, or all, cannot be read."""

    bad: RunId | None = None

    async def ends_of(self, run_id: RunId) -> tuple[RunSubmitted, Event] | None:
        if run_id == self.bad:
            raise BlobMissing("a payload is gone")
        return await super().ends_of(run_id)

    async def oldest_runs(self, limit: int, after: RunId | None = None) -> list[RunId]:
        if self.bad is None:
            raise BlobMissing("a payload is gone")
        return await super().oldest_runs(limit, after)


async def test_what_cannot_be_read_keeps_no_other_runs(tmp_path: Path) -> None:
    """A run that cannot be read stays, and the next goes; a tenant of whom nothing can be read is passed over."""
    async with stage(tmp_path) as on:
        rooms = on.service.runs.rooms
        request = DirectRequest(
            model=SUB, messages=(Message(role="user", content="hi"),), max_output_tokens=9, key_id=KeyId("key_1")
        )
        runs = [(await DirectCalls(rooms).complete(request)).run_id for _ in range(3)]
        journal = Unreadable(on.service.store, Blobs(tmp_path / "blobs"), rooms.journal.tenant)
        broken = replace(rooms, journal=journal)
        journal.bad = min(runs)
        assert (await forget_runs(broken, before=FOR_EVER)).forgotten == 2
        journal.bad = None

        async def tenants() -> list[RunsRooms]:
            return [broken, rooms]

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(keep_forgetting, tenants, kept_s=0, now=for_ever, every_s=0.01))
                while True:
                    if not await on.service.runs.ls(10):
                        break
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()


async def test_a_closed_session_is_forgotten_when_no_run_leads_to_it(tmp_path: Path) -> None:
    """Its record, its log and whatever was still counted of it; an open one stays, and so does one whose last run is
    still there, or that was closed lately."""
    async with stage(tmp_path, repl("FINAL('x')")) as on:
        runs, rooms = on.service.runs, on.service.runs.rooms
        level = Level(kind="tenant", owner=rooms.journal.tenant, limits=CallerLimits())
        never_used, used, left_open = [await runs.open_session() for _ in range(3)]
        for session_id in (never_used, used, left_open):
            await Holdings(rooms, (level,)).count_session(session_id)
        await on.play(await on.request("four", session_id=used))
        for session_id in (never_used, used):
            await runs.close_session(session_id)
        assert (await forget_sessions(rooms, before=0.0)).forgotten == 0
        closed_at = (await rooms.session.records.get(never_used)).closed_at
        assert closed_at is not None
        look = await forget_sessions(rooms, before=FOR_EVER)
        assert (look.forgotten, look.after) == (1, None)
        assert await keys_of(on, "session", never_used) == []
        assert await keys_of(on, "session", used)
        assert await rooms.quotas.count(Counted.OPEN_SESSIONS, level) == 2
        await forget_runs(rooms, before=FOR_EVER)
        await forget_sessions(rooms, before=FOR_EVER)
        assert await keys_of(on, "session", used) == []
        assert await keys_of(on, "session", left_open)
        assert not is_session_due(replace(RECORD, closed_at=10.0), has_run=False, before=10.0)
