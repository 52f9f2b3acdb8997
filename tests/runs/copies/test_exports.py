"""Exports: a run as a file that another tenant imports, replays and forks; whatever else is in it is refused."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.contexts.json_counts import MOST_VALUES
from service.contexts.values import Context
from service.errors import BadRequest
from service.ids import KeyId, RunId, new_id
from service.journal.values import RunAlreadyFinished
from service.runs.exports.exporting import export_lines, find_export, left_out
from service.runs.exports.importing import Importer, import_run
from service.runs.exports.lines import read_line
from service.runs.forks.forking import fork
from service.runs.forks.values import ForkRequest
from service.runs.replay.replaying import replay
from service.runs.retention.forgetting import forget_runs
from service.runs.runs import Runs
from service.tenants.values import NO_LIMITS, OPERATOR, Level
from tests.runs.playing import Stage, repl, stage

pytestmark = pytest.mark.anyio

TURNS = (
    repl("import random\nfound = llm_query_batched(['a', 'b'])\ndice = random.random()\nprint(context[:4])"),
    repl("answer['content'] = f'{found} {dice}'\nanswer['ready'] = True"),
)
KeepRun = Callable[[RunId, Mapping[str, int]], Awaitable[None]]
KEY = KeyId(new_id("key"))


async def nothing(context: Context) -> None:
    """Contexts are not counted here."""


async def no_bytes(run_id: RunId, sizes: Mapping[str, int]) -> None:
    """Nor what the run keeps."""


async def runs_of_another(on: Stage) -> Runs:
    tenant = await on.service.registry.tenants.create("other", by=OPERATOR)
    return on.service.tenancy.runs_of(tenant.id)


async def exported(on: Stage, run_id: RunId, inline_bytes: int = 1 << 30) -> list[dict[str, Any]]:
    rooms = on.service.runs.rooms
    lines = export_lines(rooms, await find_export(rooms, run_id), inline_bytes=inline_bytes)
    return [json.loads(line) async for line in lines]


async def imported(
    runs: Runs, lines: list[dict[str, Any]], *, piece: int = 1000, keep_run: KeepRun = no_bytes
) -> RunId:
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(text), piece):
            yield text[start : start + piece]

    return await import_run(runs.rooms, chunks(), Importer(keep=nothing, keep_run=keep_run, key_id=KEY))


async def test_a_run_goes_to_another_tenant_and_runs_again_there(tmp_path: Path) -> None:
    """Its answer is there, it replays the same and can be forked; ids are new, nothing was paid, nobody drives it."""
    async with stage(tmp_path, *TURNS) as on:
        played = await on.play(await on.request("four and more"))
        lines = await exported(on, played.run_id)
        assert lines[0]["line"] == "export"
        assert lines[-1]["line"] == "end"
        other = await runs_of_another(on)
        calls = len(on.server.calls)
        run_id = await imported(other, lines)
        view = await other.show(run_id)
        assert (view.imported_from, view.spent, view.parent_run_id) == (played.run_id, 0, None)
        assert run_id != played.run_id
        assert b"".join([chunk async for chunk in other.answer_chunks(run_id)]) == played.answer
        assert await other.abandoned(10) == []
        with pytest.raises(RunAlreadyFinished):
            await other.rooms.journal.claim(run_id, "somebody", for_s=10)
        report = await replay(other, run_id, patience_s=120)
        assert report.difference is None
        assert (report.is_same, report.cells) == (True, 2)
        assert len(on.server.calls) == calls
        forked = await fork(other, run_id, ForkRequest(from_turn=2))
        other.start(forked)
        async for _ in other.follow(forked):
            pass
        assert b"".join([chunk async for chunk in other.answer_chunks(forked)]) == played.answer
        assert len(on.server.calls) == calls + 1


async def test_what_is_too_large_is_left_out_and_must_be_there(tmp_path: Path) -> None:
    """A context that the file only names is asked for, and taken from what the tenant has stored of the same bytes;
    what is the run's own is never left out."""
    async with stage(tmp_path, repl("FINAL(len(context))")) as on:
        played = await on.play(await on.request("x" * 5_000))
        lines = await exported(on, played.run_id, inline_bytes=100)
        assert sum(line["line"] == "piece" for line in lines) == 1
        other = await runs_of_another(on)
        with pytest.raises(BadRequest, match="store it first"):
            await imported(other, lines)

        async def text() -> AsyncIterator[bytes]:
            yield b"x" * 5_000

        await other.rooms.contexts.put_text("mine", text())
        run_id = await imported(other, lines)
        assert (await replay(other, run_id, patience_s=120)).is_same
        bare = await imported(other, await exported(on, played.run_id, inline_bytes=0))
        assert b"".join([chunk async for chunk in other.answer_chunks(bare)]) == played.answer
        found = await find_export(on.service.runs.rooms, played.run_id)
        assert [context.length for context in left_out(found, inline_bytes=0)] == [5_000]
        assert left_out(found, inline_bytes=1 << 20) == []


def change(kind: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[list[dict[str, Any]]], object]:
    """Edits the first line of this kind; of events, named by type."""

    def apply(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["line"] == kind or (line["line"] == "event" and line["event"]["type"] == kind):
                edit(line)
                return

    return apply


HOSTILE: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "cut off": lambda lines: lines.pop(),
    "no header": lambda lines: lines.pop(0),
    "two headers": lambda lines: lines.insert(1, lines[0]),
    "unknown format": change("export", lambda line: line.update(format="rlm-run/2")),
    "a piece too few": lambda lines: lines.remove(next(line for line in lines if line["line"] == "piece")),
    "another payload": change("piece", lambda line: line.update(base64=base64.b64encode(b"evil").decode())),
    "no base64": change("piece", lambda line: line.update(base64="%%%")),
    "no digest": change("blob", lambda line: line.update(sha256="../../etc/passwd")),
    "a size that is none": change("blob", lambda line: line.update(size_bytes=-1)),
    "a foreign answer": change("RunFinished", lambda line: line["event"]["answer"].update(sha256="0" * 64)),
    "a foreign cell": change("CellFinished", lambda line: line["event"]["result"].update(cell_id="run_x.t1.b0")),
    "a foreign log": change("cell", lambda line: line["record"].update(run_id=new_id("run"))),
    "a bound context": change("cell", lambda line: line["record"].update(kind="bind")),
    "an endless time": change("CellFinished", lambda line: line["event"].update(at="Infinity")),
    "limits that are none": change("RunSubmitted", lambda line: line["event"]["limits"].update(depth=99)),
    "a child run": change("RunSubmitted", lambda line: line["event"].update(depth=1)),
    "a child run by its parent": change("RunSubmitted", lambda line: line["event"].update(parent_run_id=new_id("run"))),
    "a child run by its origin": change(
        "RunSubmitted",
        lambda line: line["event"].update(
            origin={"cell_id": "run_x.t1.b0", "function": "rlm_query", "args_sha256": "0" * 64, "ordinal": 0}
        ),
    ),
    "a foreign context": change(
        "RunSubmitted", lambda line: line["event"]["bindings"][0].update(context_id=new_id("ctx"))
    ),
    "a record that answers nothing": change("HostCallAnswered", lambda line: line["event"].update(answer_json="[7]")),
    "no end": lambda lines: lines.remove(
        next(line for line in lines if line["line"] == "event" and line["event"]["type"] == "RunFinished")
    ),
    "an event of no kind": change("CellFinished", lambda line: line["event"].update(type="Sabotage")),
    "no event at all": lambda lines: lines.insert(-1, {"line": "event", "event": {}}),
    "something behind the end": lambda lines: lines.append(lines[-1]),
}


async def test_a_hostile_file_is_refused_and_leaves_no_run(tmp_path: Path) -> None:
    """Whatever is changed in an export, importing it is the caller's fault, and there is no run afterwards."""
    async with stage(tmp_path, *TURNS) as on:
        played = await on.play(await on.request("four"))
        other = await runs_of_another(on)
        for name, sabotage in HOSTILE.items():
            lines = await exported(on, played.run_id)
            sabotage(lines)
            try:
                await imported(other, lines)
            except BadRequest:
                continue
            pytest.fail(f"{name}: it was imported")
        assert await other.ls(10) == []


async def test_what_editors_and_transfers_do_to_a_file(tmp_path: Path) -> None:
    """A byte order mark and blank lines do no harm; a file that is cut off, or of another format, is told as that."""
    async with stage(tmp_path, *TURNS) as on:
        played = await on.play(await on.request("four"))
        other = await runs_of_another(on)
        lines = await exported(on, played.run_id)
        text = "".join(json.dumps(line) + "\n" for line in lines)

        async def of(text: str) -> RunId:
            async def chunks() -> AsyncIterator[bytes]:
                yield text.encode()

            return await import_run(other.rooms, chunks(), Importer(keep=nothing, keep_run=no_bytes, key_id=KEY))

        run_id = await of("\ufeff" + text.replace("\n", "\n\n", 1) + "\n")
        assert b"".join([chunk async for chunk in other.answer_chunks(run_id)]) == played.answer
        with pytest.raises(BadRequest, match=f"cut off in line {len(lines)}:"):
            await of(text[:-5])
        with pytest.raises(BadRequest, match="not rlm-run/1, which this version reads"):
            await of(text.replace("rlm-run/1", "rlm-run/2", 1))


async def test_what_is_imported_is_past(tmp_path: Path) -> None:
    """A file whose times lie far ahead, or before all time, makes a run that retention forgets like others."""
    async with stage(tmp_path, *TURNS) as on:
        played = await on.play(await on.request("four"))
        other = await runs_of_another(on)
        for at in (1e300, -1e300):
            lines = await exported(on, played.run_id)
            for line in lines:
                if line["line"] == "event":
                    line["event"]["at"] = at
            run_id = await imported(other, lines)
            now = other.rooms.now()
            assert all(0 <= each.event.at <= now for each in await other.rooms.events_of(run_id))


async def test_a_forgotten_import_is_counted_no_longer(tmp_path: Path) -> None:
    """What it brought takes room until retention forgets the run."""
    async with stage(tmp_path, *TURNS) as on:
        played = await on.play(await on.request("four"))
        other = await runs_of_another(on)
        tenant = other.rooms.journal.tenant
        storage, level = on.service.registry.storage_of(tenant), Level(kind="tenant", owner=tenant, limits=NO_LIMITS)

        async def keep(run_id: RunId, sizes: Mapping[str, int]) -> None:
            await storage.hold(run_id, sizes, [level])

        await imported(other, await exported(on, played.run_id), keep_run=keep)
        assert await storage.used_bytes(level) > len(played.answer)
        assert (await forget_runs(other.rooms, before=9e12)).forgotten == 1
        assert await storage.used_bytes(level) == 0


async def test_only_what_stands_for_itself_is_exported(tmp_path: Path) -> None:
    """A run that began with the variables of another one is refused, with the reason."""
    async with stage(tmp_path, repl("x = 1\nFINAL(1)"), repl("FINAL(x)")) as on:
        session_id = await on.service.runs.open_session()
        await on.play(await on.request("four", session_id=session_id))
        second = await on.play(await on.request("four", session_id=session_id))
        with pytest.raises(BadRequest, match="others had left"):
            await find_export(on.service.runs.rooms, second.run_id)


async def test_a_line_of_too_many_values_is_refused_before_it_is_decoded() -> None:
    """Each would be an object in memory, and a line may have 64 MB."""
    with pytest.raises(BadRequest, match=f"line 7 of the export has more than {MOST_VALUES} values"):
        await read_line(b'{"line":"event","event":[' + b"[]," * MOST_VALUES + b"0]}", 7)
    with pytest.raises(BadRequest, match="line 7 of the export is none of"):
        await read_line(b'{"line":"event","event":"' + b"[]," * MOST_VALUES + b'"}', 7)
