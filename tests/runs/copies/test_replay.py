"""Replay: a finished run comes out the same without any model, or the first difference is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import BadRequest
from service.ids import CellId, RunId
from service.journal.values import CellRecord, RunNotFinished
from service.loop.events import CellFinished, RunFinished
from service.loop.values import AnswerSource, BlobRef, CellResult, CellStatus, Limits, StopReason
from service.money import NanoUSD
from service.runs.copies.cell_logs import was_changed_beside
from service.runs.exports.exporting import find_export
from service.runs.replay.comparing import difference, difference_of_cells, difference_of_ends
from service.runs.replay.replaying import replay
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio

ASKS = repl("import random\nfound = llm_query_batched(['a', 'b'])\ndice = random.random()\nprint(found, len(context))")
SUBMITS = repl("answer['content'] = f'{found} {dice}'\nanswer['ready'] = True")


async def sessions_of(on: Stage) -> int:
    return len(await on.service.runs.rooms.session.records.list())


async def test_a_run_comes_out_the_same_without_a_model(tmp_path: Path) -> None:
    """Code, output, sub-calls, random numbers and the answer are the same; no model is asked, nothing is spent or left
    behind, and a cell that killed its kernel is named as left out."""
    turns = (ASKS, repl("import os\nos._exit(1)"), repl("raise ValueError(dice)"), SUBMITS)
    async with stage(tmp_path, *turns) as on:
        played = await on.play(await on.request("four"))
        calls, sessions = len(on.server.calls), await sessions_of(on)
        report = await replay(on.service.runs, played.run_id, patience_s=120)
        assert report.difference is None
        assert report.is_same
        assert (report.events, report.cells) == (len(played.events), 3)
        assert report.left_out == (f"{played.run_id}.t2.b0",)
        assert (len(on.server.calls), await sessions_of(on)) == (calls, sessions)
        view = await on.service.runs.show(played.run_id)
        assert view.spent == played.finished.spent


async def test_the_first_difference_is_told(tmp_path: Path) -> None:
    """Of code that looks at the clock it is what the cell printed."""
    async with stage(tmp_path, repl("x = 1"), repl("import time\nprint(time.time_ns())"), repl("FINAL(x)")) as on:
        played = await on.play(await on.request("four"))
        report = await replay(on.service.runs, played.run_id, patience_s=120)
        assert report.difference is not None
        assert report.difference.what == f"stdout of cell {played.run_id}.t2.b0"
        assert report.difference.expected != report.difference.found
        before = [type(event) for event in played.events[: report.difference.seq]]
        assert before.count(CellFinished) == 2
        assert not report.is_same


async def test_code_that_asks_for_something_else_is_stopped_there(tmp_path: Path) -> None:
    """A host call that has no record reaches no model and is the difference."""
    async with stage(tmp_path, repl("import time\nllm_query(str(time.time_ns()))"), repl("FINAL(1)")) as on:
        played = await on.play(await on.request("four"))
        calls = len(on.server.calls)
        report = await replay(on.service.runs, played.run_id, patience_s=120)
        assert report.difference is not None
        assert report.difference.what == "host calls"
        assert "llm_query" in report.difference.found
        assert len(on.server.calls) == calls


async def test_a_run_in_a_session_begins_where_the_session_stood(tmp_path: Path) -> None:
    """Variables of an earlier run are there again, and what a later one did with them is not."""
    turns = (repl("kept = [llm_query('first')]\nFINAL(1)"), repl("FINAL(str(kept))"), repl("kept.append(2)\nFINAL(3)"))
    async with stage(tmp_path, *turns) as on:
        session_id = await on.service.runs.open_session()
        request = await on.request("four", session_id=session_id)
        played = [await on.play(request) for _ in turns]
        assert played[1].answer == b"['first']"
        for each in played:
            report = await replay(on.service.runs, each.run_id, patience_s=120)
            assert report.difference is None
            assert report.is_same


async def test_a_run_that_a_limit_ended_is_replayed_to_its_end(tmp_path: Path) -> None:
    """The wrap-up call's reply is taken from the journal like every other."""
    async with stage(tmp_path, repl("answer['content'] = 'so far'"), "FINAL(all there is)") as on:
        played = await on.play(await on.request("four", Limits(turns=1)))
        assert played.finished.stop_reason is StopReason.TURN_LIMIT
        report = await replay(on.service.runs, played.run_id, patience_s=120)
        assert report.is_same


async def test_only_a_finished_run_is_replayed(tmp_path: Path) -> None:
    """One that was only submitted is refused."""
    async with stage(tmp_path, repl("FINAL(1)")) as on:
        run_id = await on.service.runs.submit(await on.request("four"))
        with pytest.raises(RunNotFinished):
            await replay(on.service.runs, run_id, patience_s=120)


async def test_what_was_changed_beside_a_run_is_not_repeated(tmp_path: Path) -> None:
    """A run in whose session the caller put a file between its cells is neither replayed nor exported: both say why."""
    async with stage(tmp_path, repl("x = 1"), repl("FINAL(x)")) as on:
        played = await on.play(await on.request("four"))
        rooms = on.service.runs.rooms
        session_id = (await on.service.runs.show(played.run_id)).session_id
        first, *others = await rooms.session.cell_log.read(session_id)
        put = CellRecord(cell_id=CellId("put"), run_id=None, kind="file", code="{}")
        await rooms.session.cell_log.forget(session_id)
        for record in (first, put, *others):
            await rooms.session.cell_log.append(session_id, record)
        with pytest.raises(BadRequest, match="cannot be repeated"):
            await replay(on.service.runs, played.run_id, patience_s=120)
        with pytest.raises(BadRequest, match="changed from outside"):
            await find_export(rooms, played.run_id)


def test_only_what_came_between_its_own_records_changed_a_run() -> None:
    """What the caller did before a run, or after it, belongs to no run."""
    own, others, caller = (
        CellRecord(cell_id=CellId("c"), run_id=run_id, kind="cell", code="")
        for run_id in (RunId("run_a"), RunId("run_b"), None)
    )
    assert not was_changed_beside([], RunId("run_a"))
    assert not was_changed_beside([caller, own, own, caller], RunId("run_a"))
    assert not was_changed_beside([own, others, own], RunId("run_a"))
    assert was_changed_beside([own, caller, own], RunId("run_a"))


def test_the_answer_of_a_run_that_was_ended_from_outside_is_compared() -> None:
    """Such a run has the partial answer that it had saved, and no other."""
    saved, forged = (BlobRef(sha256=digit * 64, size_bytes=1) for digit in "12")
    ended = RunFinished(
        at=1.0,
        stop_reason=StopReason.CANCELLED,
        answer_source=AnswerSource.PARTIAL,
        answer=saved,
        spent=NanoUSD(0),
        message="",
    )
    assert difference_of_ends(7, None, ended, partial=saved) is None
    assert difference_of_ends(7, None, replace(ended, answer=None), partial=None) is None
    for other in (
        replace(ended, answer=forged),
        replace(ended, answer=None),
        replace(ended, answer_source=AnswerSource.SUBMITTED),
    ):
        found = difference_of_ends(7, None, other, partial=saved)
        assert found is not None
        assert (found.seq, found.what) == (7, "end")


def test_what_differs_is_shown_from_where_it_parts() -> None:
    """Of two long texts a person sees the part around the first different character."""
    found = difference(3, "stdout", "a" * 10_000 + "x", "a" * 10_000 + "y")
    assert found.expected.endswith("ax")
    assert found.found.endswith("ay")
    assert len(found.expected) < 2_001


def test_times_do_not_count() -> None:
    """Two results that differ in nothing but how long they took are the same."""
    first = CellResult(cell_id=CellId("c"), status=CellStatus.OK, active_s=1.0, wall_s=2.0)
    second = CellResult(cell_id=CellId("c"), status=CellStatus.OK, active_s=3.0, wall_s=4.0)
    assert difference_of_cells(2, first, second) is None
