"""Sessions that nobody would ever come back to: none stays behind what went wrong."""

from pathlib import Path

import anyio
import pytest

from service.ids import RunId, SessionId, new_id
from service.journal.values import RunIdTaken
from service.loop.values import Limits, StopReason
from service.runs.forks.forking import fork
from service.runs.forks.values import ForkRequest
from service.runs.replay import replaying
from service.runs.retention.forgetting import forget_runs
from service.runs.retention.forgetting_sessions import forget_sessions
from service.runs.sessions.idling import IdlePatience
from service.runs.sessions.open_session import SessionRooms
from service.store.errors import StoreFailed
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio

FOR_EVER = 9e12


async def ended(on: Stage, run_id: RunId) -> None:
    on.service.runs.start(run_id)
    with anyio.fail_after(60):
        await on.service.runs.rooms.journal.wait_until_finished(run_id)


async def test_what_is_begun_twice_has_one_session(tmp_path: Path) -> None:
    """A run or a fork that is submitted again under its id, as a client does after a crash, is refused and leaves no
    second session: when the runs are forgotten, none is left."""
    async with stage(tmp_path, repl("x = 1"), repl("FINAL('done')")) as on:
        runs, (first, second) = on.service.runs, (RunId(new_id("run")), RunId(new_id("run")))
        request = await on.request("four")
        await runs.submit(request, first)
        with pytest.raises(RunIdTaken):
            await runs.submit(request, first)
        await ended(on, first)
        await fork(runs, first, ForkRequest(from_turn=2), second)
        with pytest.raises(RunIdTaken):
            await fork(runs, first, ForkRequest(from_turn=2), second)
        await ended(on, second)
        assert (await runs.show(second)).stop_reason is StopReason.ANSWERED
        await forget_runs(runs.rooms, before=FOR_EVER)
        assert await runs.rooms.session.records.list() == []


async def test_a_replay_that_was_killed_leaves_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is none that anybody could use: it goes with those that were closed then."""

    async def killed(rooms: SessionRooms, session_id: SessionId) -> None:
        raise StoreFailed("it never came to that")

    async with stage(tmp_path, repl("FINAL('done')")) as on:
        runs = on.service.runs
        run_id = await runs.submit(await on.request("four"))
        await ended(on, run_id)
        with monkeypatch.context() as dying:
            dying.setattr(replaying, "forget_session", killed)
            with pytest.raises(StoreFailed):
                await replaying.replay(runs, run_id, patience_s=60)
        assert len(await runs.rooms.session.records.list()) == 2
        await forget_sessions(runs.rooms, before=FOR_EVER)
        assert await runs.rooms.session.records.list() == [(await runs.show(run_id)).session_id]


async def test_a_record_that_cannot_be_read_keeps_no_other_sandbox(tmp_path: Path) -> None:
    """A session used elsewhere gives its sandbox up here, though the record of one that is looked at before it is
    damaged; that one's sandbox stays until its record can be read."""
    settings = {"RLM_SANDBOX_SLOTS": "2", "RLM_WARM_SANDBOXES": "0", "RLM_SESSION_PAUSE_S": "0"}
    async with stage(tmp_path, repl("FINAL('done')"), settings=settings) as on:
        service, kept = on.service, on.service.tenancy.kept
        records = service.runs.rooms.session.records
        damaged, used = await service.runs.open_session(), await service.runs.open_session()
        for session_id in (damaged, used):
            await on.play(await on.request("four", Limits(depth=0), session_id))
        assert list(kept.by_id) == [damaged, used]
        await records.take(used, await records.epoch_of(used))
        generation = await service.store.read("HGET", records.key_of(damaged), "generation")
        assert isinstance(generation, bytes)
        await service.store.write("HSET", records.key_of(damaged), "generation", "none")
        patience = IdlePatience(pause_s=None, end_s=None)
        await kept.rest(patience, 0.0)
        assert list(kept.by_id) == [damaged]
        await service.store.write("HSET", records.key_of(damaged), "generation", generation)
        await kept.rest(patience, 0.0)
        assert kept.by_id[damaged].is_in_slot
