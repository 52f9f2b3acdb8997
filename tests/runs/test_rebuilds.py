"""Lost namespaces: what comes back, what does not, and that the root LM is told of it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis.strategies import DataObject, booleans, data, lists, sampled_from

from service.ids import CellId, RunId
from service.journal.values import CellRecord
from service.loop.events import CellFinished, Event, NamespaceRebuilt, SandboxLost
from service.loop.values import BlobRef, CellStatus, ContextBinding, Limits, StopReason
from service.models.port import ModelReply, ModelRequest
from service.runs.sessions.bindings import Wanted
from service.runs.sessions.replaying import (
    LEAST_RERUN_S,
    MAX_ATTEMPTS,
    PUT,
    WANTED,
    Found,
    PutFile,
    plan_for,
    rerun_limit_s,
)
from tests.runs.doubles import echo
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio

DIES = "import os\nos._exit(3)"
DIE = repl(DIES)
ASKS_ANEW = "import time\nasked = llm_query(str(time.time_ns()))\nkept.append('poison')\nfake = asked"
"""What it asks depends on the clock, so it diverges whenever it is run again."""
NAMES = "','.join(n for n in ('early', 'kept', 'asked', 'fake', 'late', 'mortal', 'mark') if n in globals())"


BIRTH = "import os, time\nborn = time.time()\nearly = 1"
"""A cell that knows when it was run, for `once`."""


def once(code: str) -> Callable[[ModelRequest], str]:
    """A reply whose code does the rest of its life only when it is run again, after `BIRTH` was. A file could not tell
    it: a rebuild begins without any."""
    return lambda _: repl(f"if born > {time.time()!r}:\n    {code}\nmortal = 1")


def rebuilds(events: list[Event]) -> list[tuple[int, tuple[str, ...]]]:
    return [(event.cells, event.missing) for event in events if isinstance(event, NamespaceRebuilt)]


async def until(on: Stage, run_id: RunId, holds: Callable[[Event], bool]) -> None:
    """Follow the run up to an event."""
    async for entry in on.service.runs.follow(run_id):
        if holds(entry.event):
            return


async def test_a_diverged_cell_leaves_nothing_and_the_run_its_own_context(tmp_path: Path) -> None:
    """A cell of run 1 that asks something new is stopped: what it bound or changed is gone and named, the cells
    behind it too, and run 2 goes on with its own context."""
    async with stage(
        tmp_path,
        repl("early = 1\nkept = []"),
        repl(ASKS_ANEW),
        repl("late = 1\nFINAL('one')"),
        DIE,
        repl(f"FINAL(context + ' ' + {NAMES} + str(kept))"),
    ) as on:
        session = await on.service.runs.open_session()
        await on.play(await on.request("FIRST", session_id=session))
        played = await on.play(await on.request("SECOND", session_id=session))
        assert played.answer == b"SECOND early,kept[]"
        assert rebuilds(played.events) == [(1, ("asked", "fake", "late", "time"))]
        assert "lost and must be made again: asked, fake, late" in on.model.last_observation
        assert len(on.model.sub_requests) == 1


@pytest.mark.parametrize(
    "death",
    [
        "import os\nos._exit(0)",
        "import ctypes\nctypes.string_at(0)",
        "import os\nos.abort()",
        pytest.param("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", id="as-out-of-memory"),
    ],
)
async def test_however_a_kernel_dies_its_namespace_comes_back(tmp_path: Path, death: str) -> None:
    """Variables and sub-calls made before are there again, nothing is paid twice, and what a cell that depends on the
    clock left behind is told as lost."""
    turns = (repl("early = llm_query('one')"), repl(ASKS_ANEW.replace("kept.append('poison')\n", "")), repl(death))
    async with stage(tmp_path, *turns, repl(f"FINAL(early + ' ' + {NAMES})")) as on:
        played = await on.play(await on.request("TEXT"))
        assert played.answer == b"one early"
        assert rebuilds(played.events) == [(1, ("asked", "fake", "time"))]
        assert "lost and must be made again: asked, fake" in on.model.last_observation
        assert len(on.model.sub_requests) == 2


async def test_a_value_that_came_back_as_another_is_told(tmp_path: Path) -> None:
    """A cell that prints something else when it is run again is told by its turn, although no variable is missing."""
    made, printed = repl("import os\ntok = os.urandom(8).hex()"), repl("print(tok)")
    async with stage(tmp_path, made, printed, repl("os._exit(3)"), repl("FINAL('x')")) as on:
        played = await on.play(await on.request("TEXT"))
        (rebuilt,) = [event for event in played.events if isinstance(event, NamespaceRebuilt)]
        assert (rebuilt.missing, rebuilt.diverged) == ((), (f"{played.run_id}.t2.b0",))
        assert "did not end as before (of turn 2)" in on.model.last_observation


async def test_an_answer_that_came_back_as_another_is_a_divergence(tmp_path: Path) -> None:
    """A cell that prints nothing and leaves another `answer` when it is run again has not ended as it did; one that
    leaves the same in the form that the run asks for has."""
    sets = repl("import os\nanswer['content'] = {'drawn': os.urandom(8).hex()}")
    same = repl("answer['content'] = {'drawn': 1}")
    schema = {"type": "object"}
    async with stage(tmp_path, same, sets, repl("os._exit(3)"), repl("FINAL({'x': 1})")) as on:
        played = await on.play(replace(await on.request("TEXT"), answer_schema=schema))
        (rebuilt,) = [event for event in played.events if isinstance(event, NamespaceRebuilt)]
        assert rebuilt.diverged == (f"{played.run_id}.t2.b0",)


async def test_a_run_that_is_to_stop_at_a_divergence_does(tmp_path: Path) -> None:
    """It ends as `diverged`, names the cell in its events and its message, and asks no model any more; by the
    operator's setting as by its own wish."""
    turns = (repl("early = 1"), repl(ASKS_ANEW.replace("kept.append('poison')\n", "")), repl(DIES))
    async with stage(tmp_path, *turns, settings={"RLM_ON_DIVERGENCE": "stop"}) as on:
        for asked in (await on.request("TEXT"), replace(await on.request("TEXT"), on_divergence="stop")):
            on.model.root_requests.clear()
            played = await on.play(asked)
            (rebuilt,) = [event for event in played.events if isinstance(event, NamespaceRebuilt)]
            assert played.finished.stop_reason is StopReason.DIVERGED
            assert rebuilt.diverged == (f"{played.run_id}.t2.b0",)
            assert rebuilt.diverged[0] in played.finished.message
            assert len(on.model.root_requests) == 3


async def test_a_cell_that_kills_the_rebuilt_kernel_is_left_out(tmp_path: Path) -> None:
    """The rest of the namespace comes back, the context with it; the model is told what does not."""
    async with stage(
        tmp_path,
        repl(BIRTH),
        once("os._exit(1)"),
        DIE,
        repl(f"FINAL(context + ' ' + {NAMES})"),
    ) as on:
        played = await on.play(await on.request("TEXT"))
        assert played.answer == b"TEXT early"
        assert rebuilds(played.events) == [(1, ("mortal",))]
        assert "mortal" in on.model.last_observation


async def test_after_a_few_losses_only_bindings_come_back(tmp_path: Path) -> None:
    """A log full of cells that kill the kernel costs `MAX_ATTEMPTS` attempts and not one for each cell."""
    deaths = [once(f"os._exit(1)\nm{n} = 1") for n in range(MAX_ATTEMPTS + 2)]
    last = repl(f"FINAL(context + ' ' + {NAMES})")
    async with stage(tmp_path, repl(BIRTH), *deaths, DIE, last) as on:
        played = await on.play(await on.request("TEXT"))
        assert played.answer == b"TEXT "
        assert rebuilds(played.events) == [(0, ("born", "early", "m0", "m1", "m2", "m3", "m4", "mortal", "os", "time"))]


async def test_a_session_reopened_elsewhere_tells_what_it_could_not_bring_back(tmp_path: Path) -> None:
    """A rebuild that nobody asked for is journalled, and its missing variables stand in the next observation."""
    async with stage(tmp_path, repl(f"early = 1\nkept = []\n{ASKS_ANEW}\nFINAL('one')")) as on:
        session = await on.service.runs.open_session()
        await on.play(await on.request("FIRST", session_id=session))
    async with stage(tmp_path, repl(f"print({NAMES})"), repl("FINAL(context)")) as on:
        played = await on.play(await on.request("SECOND", session_id=session))
        assert played.answer == b"SECOND"
        assert rebuilds(played.events) == [(0, ("asked", "early", "fake", "kept", "time"))]
        assert "lost and must be made again: asked, early, fake, kept" in on.model.last_observation


async def test_a_context_deleted_since_does_not_end_the_session(tmp_path: Path) -> None:
    """What an earlier run was about cannot be bound again: it is missing, and the cells come back without it."""
    async with stage(tmp_path, repl("early = context\nFINAL(1)"), repl("later = 1\nFINAL(1)")) as on:
        session = await on.service.runs.open_session()
        first = await on.request("FIRST", session_id=session)
        (bound,) = first.contexts
        named = ContextBinding(context_id=bound.context_id, variable="report")
        await on.play(replace(first, contexts=(named,)))
        await on.play(await on.request("SECOND", session_id=session))
        await on.service.contexts.delete(bound.context_id)
    async with stage(tmp_path, repl("FINAL(f'{context} {later}')")) as on:
        played = await on.play(await on.request("THIRD", session_id=session))
        assert played.answer == b"THIRD 1"
        ((_, missing),) = rebuilds(played.events)
        assert "report" in missing


async def test_a_cell_that_a_deadline_interrupted_is_not_run_again(tmp_path: Path) -> None:
    """An endless loop that ended with its run's deadline costs no later run anything."""

    def turn(request: ModelRequest) -> str:
        if "last message" in request.messages[-1].content:
            return "FINAL(had)"
        if any("warm up" in message.content for message in request.messages):
            return repl("FINAL(0)")
        return repl("half = 1\nwhile True: pass")

    async with stage(tmp_path, turn) as on:
        session = await on.service.runs.open_session()
        await on.play(await on.request("warm up", session_id=session))  # so that the next one finds a sandbox that runs
        first = await on.play(await on.request("x", Limits(wall_s=8), session_id=session))
        assert first.finished.stop_reason is StopReason.DEADLINE
    async with stage(tmp_path, repl("FINAL('half' in globals())")) as on:
        with anyio.fail_after(LEAST_RERUN_S / 4):
            second = await on.play(await on.request("y", session_id=session))
        assert second.answer == b"False"
        assert rebuilds(second.events) == [(1, ("half",))]


async def test_a_cancelled_rebuild_leaves_the_session_usable(tmp_path: Path) -> None:
    """Cancelled in the midst of a re-run cell it leaves no sandbox: the next run begins it anew from the log."""
    blocks = once("if 'report' in globals(): time.sleep(600)")
    async with stage(tmp_path, repl(BIRTH), blocks, DIE) as on:
        session = await on.service.runs.open_session()
        asked = await on.request("x", session_id=session)
        (bound,) = asked.contexts
        named = ContextBinding(context_id=bound.context_id, variable="report")
        run_id = await on.service.runs.submit(replace(asked, contexts=(named,)))
        on.service.runs.start(run_id)
        await until(on, run_id, lambda event: isinstance(event, CellFinished) and event.result.namespace_lost)
        (sandbox,) = on.service.pool.given_out
        while ".t2.b0~" not in ((await sandbox.stats()).running_cell or ""):
            await anyio.lowlevel.checkpoint()
        await on.service.runs.cancel(run_id)
        with anyio.fail_after(60):
            events = [entry.event async for entry in on.service.runs.follow(run_id)]
        assert (await on.service.runs.show(run_id)).stop_reason is StopReason.CANCELLED
        assert not any(isinstance(event, SandboxLost) for event in events)
        await on.service.contexts.delete(bound.context_id)  # so that the cell does not wait in the next rebuild
        on.model.root_requests.clear()
        on.model.turns = (repl("FINAL(f'{early} {context}')"),)
        played = await on.play(await on.request("y", session_id=session))
        assert played.answer == b"1 y"


async def test_earlier_conversations_of_a_session_are_in_history(tmp_path: Path) -> None:
    """Each run finds one list of messages per run before it, the newest last and as `history`; after a rebuild too."""
    async with stage(
        tmp_path,
        repl("FINAL('history' in globals())"),
        repl("FINAL(len(history_0) - len(history))"),
        DIE,
        repl("FINAL([[m['role'] for m in h] for h in (history_0, history_1)])"),
    ) as on:
        session = await on.service.runs.open_session()
        first = await on.play(await on.request("x", session_id=session))
        second = await on.play(await on.request("x", session_id=session))
        third = await on.play(await on.request("x", session_id=session))
        assert (first.answer, second.answer) == (b"False", b"0")
        assert third.answer == b"[['user', 'assistant'], ['user', 'assistant']]"
    async with stage(tmp_path, repl("FINAL(['(history_0)' in history_1[1]['content'], history is history_2])")) as on:
        fourth = await on.play(await on.request("x", session_id=session))
        assert fourth.answer == b"[True, True]"


async def test_a_new_sandbox_makes_the_old_grant_worthless(tmp_path: Path) -> None:
    """However many sandboxes a run goes through, one token is good for its host calls."""
    tokens: list[int] = []

    async def sub(request: ModelRequest) -> ModelReply:
        tokens.append(len(on.service.runs.rooms.grants))
        if len(tokens) == 1:
            for sandbox in on.service.pool.given_out:
                await sandbox.kill()
        return await echo(request)

    async with stage(tmp_path, repl("llm_query('one')"), repl("FINAL(llm_query('two'))"), sub=sub) as on:
        played = await on.play(await on.request("x"))
        assert played.answer == b"two"
        assert rebuilds(played.events) == [(0, ())]
        assert tokens == [1, 1]


async def test_a_warm_sandbox_that_fails_its_claim_costs_no_run(tmp_path: Path) -> None:
    """The run takes another one, and its events tell of no loss."""
    async with stage(tmp_path, repl("FINAL(context)"), settings={"RLM_WARM_SANDBOXES": "1"}) as on:
        pool = on.service.pool
        with anyio.fail_after(60):
            while not pool.state.warm:
                await anyio.lowlevel.checkpoint()
        (warm,) = pool.warm
        await warm.claim(generation=99, grant="somebody-else", random_seed=1)
        played = await on.play(await on.request("TEXT"))
        assert played.answer == b"TEXT"
        assert not [event for event in played.events if isinstance(event, SandboxLost | NamespaceRebuilt)]
        assert not warm.is_running


Kind = Literal["cell", "bind", "history"]


def record(name: str, kind: Kind = "cell", **more: Any) -> CellRecord:
    code = WANTED.dump_json(Wanted(contexts=(), tools=(), is_child=False)).decode() if kind == "bind" else name
    return CellRecord(**{"cell_id": CellId(name), "run_id": RunId("run"), "kind": kind, "code": code} | more)


@given(data())
def test_a_plan_only_ever_shrinks_and_keeps_what_binds(draw: DataObject) -> None:
    """Whatever breaks, and how: every attempt does less than the last, nothing that binds is given up for a cell, and
    cells are tried `MAX_ATTEMPTS` times at most."""
    kinds: list[Kind] = draw.draw(lists(sampled_from(get_args(Kind)), max_size=12))
    plan = plan_for(record(str(n), kind, variables=(f"v{n}",)) for n, kind in enumerate(kinds))
    is_cell = {r.cell_id: r.kind == "cell" for r in plan.records}
    with_cells = 0
    while plan.due:
        with_cells += any(r.kind == "cell" for r in plan.due)
        broken = draw.draw(sampled_from(plan.due))
        diverges = broken.kind == "cell" and draw.draw(booleans())
        smaller = plan.without(broken, "diverged" if diverges else "impossible")
        given_up = {r.cell_id for r in plan.due} - {r.cell_id for r in smaller.due}
        assert broken.cell_id in given_up
        assert all(r.kind == "cell" or r == broken for r in plan.records if r.cell_id in given_up)
        assert set(smaller.rebuilt(Found()).missing) >= {f"v{cell_id}" for cell_id in given_up if is_cell[cell_id]}
        plan = smaller
    assert with_cells <= MAX_ATTEMPTS


def test_only_files_that_are_not_there_are_told_as_missing() -> None:
    """A file that had no place counts by the last that was done with its path: one that was put again, or deleted, is
    not missing."""
    blob = BlobRef(sha256="0" * 64, size_bytes=1, media="text")
    done = [("a", blob), ("b", blob), ("c", blob), ("a", blob), ("b", None)]
    records = [
        replace(record(str(n), code=PUT.dump_json(PutFile(path=path, content=content)).decode()), kind="file")
        for n, (path, content) in enumerate(done)
    ]
    rebuilt = plan_for(records).rebuilt(Found(left_out={CellId("0"), CellId("1"), CellId("2")}))
    assert rebuilt.missing_files == ("c",)


def test_a_name_that_a_later_cell_brings_back_is_not_missing() -> None:
    """What was lost with one cell and bound again by a later one is there."""
    plan = plan_for(
        [
            record("a", variables=("x", "y"), status=CellStatus.TIMED_OUT),
            record("b", variables=("z",), was_interrupted=True),
            record("c", variables=("x",)),
            record("d", variables=("w",)),
        ]
    )
    rebuilt = plan.rebuilt(Found(others={CellId("d")}))
    assert (rebuilt.cells, rebuilt.missing) == (2, ("w", "y", "z"))


def test_a_long_cell_may_take_long_again() -> None:
    """A re-run cell has twice its own time, and never less than the floor."""
    assert rerun_limit_s(record("a", active_s=600.0)) == 1200.0
    assert rerun_limit_s(record("a", active_s=1.0)) == LEAST_RERUN_S
