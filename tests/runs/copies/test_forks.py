"""Forks: a run goes on from one of another run's turns, with other models or limits, and pays for its own only."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import BadRequest, NotFound
from service.ids import CellId, RunId, new_id
from service.loop.events import CallFinished, CellFinished, HostCallAnswered, RunFinished, RunSubmitted
from service.loop.values import Limits, Purpose, StopReason
from service.money import parse_usd
from service.runs.calls.purse import run_account
from service.runs.forks.forking import fork, fork_request
from service.runs.forks.inheritance import inherited_events
from service.runs.forks.values import ForkRequest, Overrides
from service.runs.replay.replaying import replay
from tests.runs.playing import SUB, Played, Stage, repl, stage

pytestmark = pytest.mark.anyio

TURNS = (
    repl("import random\nfound = llm_query_batched(['a', 'b'])\ndice = random.random()"),
    repl("seen = [found, dice]\nprint('second turn')"),
    repl("FINAL(f'{seen}')"),
)


async def finish(on: Stage, run_id: RunId) -> Played:
    on.service.runs.start(run_id)
    events = [entry.event async for entry in on.service.runs.follow(run_id)]
    answer = b"".join([chunk async for chunk in on.service.runs.answer_chunks(run_id)])
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    return Played(run_id=run_id, events=events, finished=finished, answer=answer)


async def test_a_fork_goes_on_from_a_turn_and_pays_for_nothing_before_it(tmp_path: Path) -> None:
    """Its first turns are there with their variables, random numbers and sub-calls, no model is asked for them again,
    and its account has the cost of its own turn only; with the same replies it comes to the same answer."""
    async with stage(tmp_path, *TURNS) as on:
        source = await on.play(await on.request("four", Limits(cost=parse_usd("1"))))
        calls = len(on.server.calls)
        run_id = await fork(on.service.runs, source.run_id, ForkRequest(from_turn=3))
        forked = await finish(on, run_id)
        assert forked.answer == source.answer
        assert len(on.server.calls) == calls + 1
        own = [event for event in forked.events if isinstance(event, CallFinished) and not event.is_inherited]
        inherited = [event for event in forked.events if isinstance(event, CallFinished) and event.is_inherited]
        assert [call.purpose for call in own] == [Purpose.TURN]
        assert len(inherited) == 2
        assert sum(call.cost for call in inherited) == 0
        assert forked.finished.spent == own[0].cost > 0
        (balance,) = await on.service.runs.rooms.ledger.balances([run_account(run_id)])
        assert (balance.spent, balance.held) == (own[0].cost, 0)
        first = forked.events[0]
        assert isinstance(first, RunSubmitted)
        assert first.forked_from is not None
        assert (first.forked_from.run_id, first.forked_from.from_turn) == (source.run_id, 3)
        # The root LM is told what it was told before.
        asked_then, asked_now = on.model.root_requests[2].messages, on.model.root_requests[3].messages
        assert [m.content for m in asked_now if m.role == "assistant"] == [
            m.content for m in asked_then if m.role == "assistant"
        ]
        assert "second turn" in asked_now[-1].content
        assert (await on.service.runs.show(run_id)).turns == 3
        report = await replay(on.service.runs, run_id, patience_s=120)
        assert report.difference is None
        # A fork may be forked in turn.
        again = await finish(on, await fork(on.service.runs, run_id, ForkRequest(from_turn=3)))
        assert again.answer == source.answer


async def test_a_fork_has_other_models_and_limits(tmp_path: Path) -> None:
    """A run that stopped at its turn limit goes on when the fork has more turns, on the model that was named."""
    async with stage(tmp_path, repl("x = 1"), repl("FINAL(x + 1)")) as on:
        source = await on.play(await on.request("four", Limits(turns=1)))
        assert source.finished.stop_reason is StopReason.TURN_LIMIT
        overrides = Overrides(limits={"turns": 5}, sub_model=SUB, prompt_pack="default")
        run_id = await fork(on.service.runs, source.run_id, ForkRequest(from_turn=2, overrides=overrides))
        forked = await finish(on, run_id)
        assert (forked.answer, forked.finished.stop_reason) == (b"2", StopReason.ANSWERED)
        first = forked.events[0]
        assert isinstance(first, RunSubmitted)
        assert first.limits.turns == 5


async def test_a_fork_treats_divergence_as_its_source_does(tmp_path: Path) -> None:
    """What was asked for with the source holds for the fork, whatever the operator has set."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        for policy in ("stop", "tell"):
            request = replace(await on.request("four"), on_divergence=policy)
            source = (await on.play(request)).events[0]
            assert isinstance(source, RunSubmitted)
            assert fork_request(source, ForkRequest(from_turn=1)).on_divergence == policy


async def test_a_fork_of_a_run_in_a_session_leaves_the_session_alone(tmp_path: Path) -> None:
    """It has the session's variables as they were, in a session of its own; the source's goes on as if nothing was."""
    turns = (repl("kept = ['one']\nFINAL(1)"), repl("kept.append('two')"), repl("kept.append('x')\nFINAL(str(kept))"))
    async with stage(tmp_path, *turns) as on:
        session_id = await on.service.runs.open_session()
        await on.play(await on.request("four", session_id=session_id))
        source = await on.play(await on.request("four", session_id=session_id))
        assert source.answer == b"['one', 'two', 'x']"
        forked = await finish(on, await fork(on.service.runs, source.run_id, ForkRequest(from_turn=2)))
        assert forked.answer == b"['one', 'two', 'x']"
        after = await on.play(await on.request("four", session_id=session_id))
        assert after.answer == b"['one', 'two', 'x', 'x']"


async def test_what_cannot_be_forked_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """A turn that the run never came to, an unknown run, limits that are none: no run is there afterwards."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        source = await on.play(await on.request("four"))
        runs = on.service.runs
        before = await runs.ls(100)
        for asked in (
            ForkRequest(from_turn=3),
            ForkRequest(from_turn=0),
            ForkRequest(from_turn=1, overrides=Overrides(limits={"turns": 0})),
        ):
            with pytest.raises(BadRequest):
                await fork(runs, source.run_id, asked)
        with pytest.raises(NotFound):
            await fork(runs, RunId(new_id("run")), ForkRequest(from_turn=1))
        assert await runs.ls(100) == before


async def test_inheritance_is_refused_where_the_fork_would_have_gone_another_way(tmp_path: Path) -> None:
    """Where the fork's own limits would have ended it before, no turn behind that can be inherited."""
    async with stage(tmp_path, *TURNS) as on:
        source = await on.play(await on.request("four"))
        first = source.events[0]
        assert isinstance(first, RunSubmitted)
        shorter = replace(first, run_id=RunId(new_id("run")), limits=replace(first.limits, turns=1))
        with pytest.raises(BadRequest, match="another way"):
            inherited_events(source.events, shorter, 3)
        same = inherited_events(source.events, replace(first, run_id=RunId(new_id("run"))), 3)
        assert [type(event) for event in same] == [
            CallFinished,
            HostCallAnswered,
            CellFinished,
            CallFinished,
            CellFinished,
        ]


async def test_what_a_cell_was_answered_behind_its_end_is_inherited_with_it(tmp_path: Path) -> None:
    """A batch that was cut off with its cell is recorded when its last calls have come back, turns later perhaps: a
    fork whose turns end in between has the record nevertheless, of the cells that it inherits and of no other."""
    async with stage(tmp_path, *TURNS) as on:
        source = await on.play(await on.request("four"))
    first = source.events[0]
    assert isinstance(first, RunSubmitted)
    (answered,) = [event for event in source.events if isinstance(event, HostCallAnswered)]
    second_cell = [event for event in source.events if isinstance(event, CellFinished)][1].result.cell_id
    of_second = replace(answered, key=replace(answered.key, cell_id=second_cell))
    late = [event for event in source.events if event is not answered]
    late[-1:-1] = [answered, of_second]
    fork_id = RunId(new_id("run"))
    inherited = inherited_events(late, replace(first, run_id=fork_id), 2)
    assert [type(event) for event in inherited] == [CallFinished, CellFinished, HostCallAnswered]
    found = inherited[-1]
    assert isinstance(found, HostCallAnswered)
    assert found.answer_json == answered.answer_json
    assert found.key == replace(answered.key, cell_id=CellId(answered.key.cell_id.replace(source.run_id, fork_id)))
    both = inherited_events(late, replace(first, run_id=fork_id), 3)
    assert [type(event) for event in both[-2:]] == [HostCallAnswered, HostCallAnswered]
