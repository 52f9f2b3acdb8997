"""Retention: runs whose time is over are forgotten, and nothing else is."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import NotFound
from service.ids import RunId, SessionId, born_at, new_id
from service.journal.values import SessionRecord
from service.loop.events import ChildRunFinished, RunFinished
from service.loop.values import AnswerSource, Limits, StopReason
from service.money import NanoUSD
from service.runs.forks.forking import fork
from service.runs.forks.values import ForkRequest
from service.runs.replay.replaying import replay
from service.runs.retention.forgetting import forget_runs, is_due
from tests.runs.doubles import submitted_run
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio

FOR_EVER = 9e12
"""Later than everything."""


async def keys_of(on: Stage, kind: str, name: str) -> list[str]:
    """What there is under an id, besides the entries of the ledger."""
    reply = await on.service.store.read("KEYS", f"rlm:{{default}}:{kind}:{name}*")
    assert isinstance(reply, list)
    return [key.decode() for key in reply if isinstance(key, bytes) and not key.endswith(b":entries")]


def test_what_is_due_has_ended_and_nobody_needs_it() -> None:
    """Not a run that goes on or ended lately, nor one whose session is open or was closed lately."""
    run = submitted_run(RunId(new_id("run")), limits=Limits(), deadline_at=0.0)
    kept = replace(run, keeps_session=True)
    ended = RunFinished(
        at=10.0,
        stop_reason=StopReason.ANSWERED,
        answer_source=AnswerSource.SUBMITTED,
        answer=None,
        spent=NanoUSD(0),
    )
    session = SessionRecord(session_id=SessionId(new_id("ses")), created_at=0.0, random_seed=1)
    assert not is_due(run, None, None, before=20.0)
    assert not is_due(run, ended, None, before=10.0)
    assert is_due(run, ended, session, before=20.0)
    assert is_due(kept, ended, None, before=20.0)
    assert not is_due(kept, ended, session, before=20.0)
    assert not is_due(kept, ended, replace(session, closed_at=30.0), before=20.0)
    assert is_due(kept, ended, replace(session, closed_at=15.0), before=20.0)


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
        assert (await forget_runs(rooms, before=born)).forgotten == 0
        forked = await fork(on.service.runs, played.run_id, ForkRequest(from_turn=2))
        assert await keys_of(on, "run", played.run_id)
        spent = sum(entry.nano_usd for entry in await on.service.ledger.entries(played.run_id))
        look = await forget_runs(rooms, before=FOR_EVER)
        assert (look.forgotten, look.after) == (1, None)
        with pytest.raises(NotFound):
            await on.service.runs.show(played.run_id)
        assert [run.run_id for run in await on.service.runs.ls(10)] == [forked]
        for kind, name in (("run", played.run_id), ("run", child), ("session", view.session_id)):
            assert await keys_of(on, kind, name) == []
        assert sum(entry.nano_usd for entry in await on.service.ledger.entries(played.run_id)) == spent > 0
        on.service.runs.start(forked)
        events = [entry.event async for entry in on.service.runs.follow(forked)]
        assert isinstance(events[-1], RunFinished)
        assert events[-1].stop_reason is StopReason.ANSWERED
        assert (await replay(on.service.runs, forked, patience_s=120)).difference is None
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 1
        assert (await forget_runs(rooms, before=FOR_EVER)).forgotten == 0


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
