"""Sessions as their callers use them: cells, variables and files, over the whole service."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from service.errors import BadRequest, NotFound
from service.ids import EMBEDDED_TENANT, SessionId
from service.loop.events import RunFinished
from service.loop.values import AnswerSource, BlobRef, CellStatus, ContextBinding, SandboxUse, StopReason
from service.money import NanoUSD, parse_usd
from service.runs.driving.kept_sessions import SessionBusy, SessionPaused
from service.runs.session_use.contents import SessionContents
from service.runs.session_use.direct_cells import DirectCells
from service.runs.session_use.sessions import SessionDesk
from service.runs.session_use.values import CellAsked, CellDone, Elsewhere, Printed, SessionChange, Silence
from service.runs.sessions.idling import IdlePatience
from service.sandboxes.files import FileMissing
from service.sandboxes.port import KernelGone
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.values import BindRefused, ValueMissing
from service.store.keys import Keys
from service.wiring.service import Service, open_service
from tests.runs.playing import SUB, Stage, repl, stage
from tests.runs.recovery.crashing import world

pytestmark = pytest.mark.anyio

FINISH = repl("FINAL(x)")
FOR_EVER = IdlePatience(pause_s=None, end_s=None)


async def _uncounted(session_id: SessionId, blob: BlobRef) -> None:
    """These callers have no limits."""


@dataclass(frozen=True)
class Desk:
    """Everything a caller does with sessions, at one replica."""

    service: Service
    sessions: SessionDesk
    cells: DirectCells
    contents: SessionContents

    @classmethod
    def of(cls, on: Stage) -> "Desk":
        return cls.beside(on.service)

    @classmethod
    def beside(cls, service: Service) -> "Desk":
        runs = service.runs
        sessions = SessionDesk(runs)
        cells = DirectCells(runs, sessions)
        contents = SessionContents(runs, cells, keep=_uncounted, keep_read_out=_uncounted)
        return cls(service, sessions, cells, contents)

    async def run(self, session_id: SessionId, code: str, **asked: object) -> CellDone:
        return await self.cells.done(await self.cells.start(session_id, CellAsked(code=code, **asked)))  # type: ignore[arg-type]

    async def printed(self, session_id: SessionId, code: str) -> str:
        done = await self.run(session_id, code)
        assert done.result is not None
        assert done.result.status is CellStatus.OK, done
        return done.result.stdout.head

    async def value(self, session_id: SessionId, name: str) -> bytes:
        value = await self.contents.read_variable(session_id, name, as_="text", limit_bytes=1000)
        return await self.service.blobs.read(value, 1000)

    async def lose_sandbox(self, session_id: SessionId) -> None:
        sitting = self.service.runs.seats.sitting(session_id)
        assert sitting is not None
        assert sitting.session.sandbox is not None
        await sitting.session.sandbox.kill()


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_cells_share_a_session_with_runs(tmp_path: Path) -> None:
    """What a direct cell leaves is there for the next one, for a run of the session, and the other way round."""
    async with stage(tmp_path, repl("y = x + 1; FINAL(y)")) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        done = await desk.run(session_id, "x = 41\nprint('set')\nx")
        assert done.stop_reason is StopReason.CELL_DONE
        assert done.result is not None
        assert (done.result.stdout.head, done.result.variables) == ("set\n41\n", ("x",))
        played = await on.play(await on.request("c", session_id=session_id))
        assert played.answer == b"42"
        assert await desk.printed(session_id, "print(y, context)") == "42 c\n"
        assert [v.name for v in await desk.contents.variables(session_id)] == ["x", "y"]


async def test_a_cell_that_raises_or_exits_is_a_result(tmp_path: Path) -> None:
    """An exception, and a kernel that ends itself, come back as results; the namespace is rebuilt after the latter."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "kept = 7")
        raised = (await desk.run(session_id, "1/0")).result
        assert raised is not None
        assert raised.raised is not None
        assert raised.raised.type_name == "ZeroDivisionError"
        killed = (await desk.run(session_id, "import os; os._exit(3)")).result
        assert killed is not None
        assert killed.status is CellStatus.KILLED
        assert await desk.printed(session_id, "print(kept)") == "7\n"


async def test_sub_calls_of_a_cell_are_charged(tmp_path: Path) -> None:
    """A direct cell's sub-calls go to the session's model, are paid by the cell's own run, and keep to its budget."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange(sub_model=SUB))).session_id
        done = await desk.run(session_id, "print(llm_query('hello'))", cost=parse_usd("0.1"))
        assert done.result is not None
        assert done.result.stdout.head == "hello\n"
        assert done.spent > 0
        assert sum(entry.nano_usd for entry in await on.service.runs.rooms.ledger.entries(done.run_id)) == done.spent
        poor = await desk.run(session_id, "r = llm_query('x' * 10_000); print(r.ok)", cost=parse_usd("0.000000001"))
        assert poor.result is not None
        assert poor.result.stdout.head == "False\n"


async def test_a_cell_without_a_model_is_refused_its_sub_calls(tmp_path: Path) -> None:
    """No scripted model answers in place of one that nobody has named: the code gets a refusal that says what to do,
    pays nothing, goes on, and gets the same again when the namespace is rebuilt."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        done = await desk.run(session_id, "r = llm_query('1 + 1'); s = rlm_query('1 + 1'); x = 3", cost=parse_usd("1"))
        assert (done.stop_reason, done.spent) == (StopReason.CELL_DONE, 0)
        assert await on.service.runs.rooms.ledger.entries(done.run_id) == []
        await desk.lose_sandbox(session_id)
        printed = await desk.printed(session_id, "print(r.ok, s.ok, x, r)")
        assert printed.startswith("False False 3 ")
        assert "this session has no sub_model" in printed


async def test_a_lost_sandbox_brings_everything_back(tmp_path: Path) -> None:
    """Variables of cells, written variables, files that were put and contexts that were attached come back, without
    asking a model again; what was deleted does not."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange(sub_model=SUB))).session_id
        stored = await on.service.contexts.put_text("t", chunks(b"attached"))
        binding = ContextBinding(context_id=stored.context_id, variable="given")
        await desk.run(session_id, "said = llm_query('once')", contexts=(binding,))
        await desk.contents.write_variable(session_id, "config", chunks(b'{"a":', b" 1}"), as_="json")
        await desk.contents.put_file(session_id, "in/data.txt", chunks(b"da", b"ta"))
        await desk.contents.put_file(session_id, "gone", chunks(b"x"))
        await desk.contents.delete_file(session_id, "gone")
        asked = len(on.model.sub_requests)
        await desk.lose_sandbox(session_id)
        code = "import os, tempfile; print(said, config, given, open(tempfile.gettempdir() + '/in/data.txt').read())"
        assert await desk.printed(session_id, code) == "once {'a': 1} attached data\n"
        assert len(on.model.sub_requests) == asked
        assert [file.path for file in (await desk.contents.files(session_id)).files] == ["in/data.txt"]


async def test_a_rebuild_begins_with_an_empty_working_directory(tmp_path: Path) -> None:
    """What cells wrote before the interpreter ended is written again as it was, not a second time beside it, and what
    callers had put there is there, although the last cell filled the directory."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        for path in "abc":
            await desk.contents.put_file(session_id, path, chunks(b"x"))
        await desk.run(session_id, "open('log.txt', 'a').write('row\\n')")
        await desk.run(session_id, "import os\nos.mkdir('out')\nopen('out/a', 'x')\nos.symlink('a', 'to')\nmade = 1")
        fills = "n = 0\nwhile True:\n    try: open(f'big{n}', 'wb').write(bytes(1 << 20)); n += 1"
        done = await desk.run(session_id, f"{fills}\n    except OSError: os._exit(3)")
        rebuilt = done.rebuilt
        assert rebuilt is not None
        assert (rebuilt.cells, rebuilt.missing, rebuilt.diverged, rebuilt.missing_files) == (3, (), (), ())
        assert await desk.printed(session_id, "print(made, repr(open('log.txt').read()))") == "1 'row\\n'\n"
        found = [file.path for file in (await desk.contents.files(session_id)).files]
        assert found == ["a", "b", "c", "log.txt", "out/a"]


async def test_a_file_that_has_no_place_any_more_costs_no_variable(tmp_path: Path) -> None:
    """A rebuild leaves it out and says so; cells and other files come back."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "kept = 7")
        for path in "pq":
            await desk.contents.put_file(session_id, path, chunks(b"x"))
        frees = "import os\nfor path in 'pq': os.unlink(path)\nwhile True: pass"  # what is cut short is not run again
        assert (await desk.run(session_id, frees, active_s=0.5)).stop_reason is not None
        for path in ("p/1", "p/2", "p/3", "q/1", "r"):
            await desk.contents.put_file(session_id, path, chunks(b"x"))
        rebuilt = (await desk.run(session_id, "os._exit(3)")).rebuilt
        assert rebuilt is not None
        assert rebuilt.missing_files == ("p/1", "p/2", "p/3", "q/1")
        assert rebuilt.missing == ("os", "path")
        assert await desk.printed(session_id, "print(kept)") == "7\n"
        assert [file.path for file in (await desk.contents.files(session_id)).files] == ["p", "q", "r"]


async def knows_variables(sandbox: Sandbox) -> bool:
    """Whether its interpreter lives."""
    try:
        await sandbox.variables()
    except KernelGone:
        return False
    return True


async def test_an_interpreter_that_ended_between_cells_costs_no_sandbox(tmp_path: Path) -> None:
    """Who asks for variables or a value then gets them, rebuilt in the same sandbox."""
    ends = (
        "import os, threading, time\nhere = os.getcwd()\ndef wait():\n"
        "    while not os.path.exists(here + '/go'): time.sleep(0.01)\n    os._exit(4)\n"
        "threading.Thread(target=wait, daemon=True).start()"
    )
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "kept = 7")
        sandbox = on.service.tenancy.kept.by_id[session_id].session.sandbox
        assert sandbox is not None

        go = tmp_path / "go"
        await anyio.Path(go).write_bytes(b"")

        async def end_interpreter() -> None:
            await desk.run(session_id, ends)
            await sandbox.files.put("go", go, 0)  # not by the session, which would put it there again
            with anyio.fail_after(60):
                while await knows_variables(sandbox):
                    pass

        await end_interpreter()
        assert "kept" in [variable.name for variable in await desk.contents.variables(session_id)]
        await end_interpreter()
        read = await desk.contents.read_variable(session_id, "kept", as_="json")
        assert await on.service.runs.rooms.blobs.read(read, 10) == b"7"
        assert on.service.tenancy.kept.by_id[session_id].session.sandbox is sandbox
        assert sandbox.is_running


async def test_each_run_tells_what_its_sandboxes_used(tmp_path: Path) -> None:
    """CPU seconds are each run's own in a shared sandbox; after that one is lost, the next run tells of a new one."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        spin = "import time\nuntil = time.process_time() + {}\nwhile time.process_time() < until: pass"

        async def used(code: str) -> tuple[SandboxUse, ...]:
            return (await on.service.runs.show((await desk.run(session_id, code)).run_id)).sandboxes

        (much,), (little,) = await used(spin.format(1.0)), await used("1")
        assert much.sandbox_id == little.sandbox_id
        assert much.cpu_s is not None
        assert little.cpu_s is not None
        assert much.cpu_s >= 0.9  # clock ticks round
        assert 0 <= little.cpu_s < 0.9
        assert much.memory_peak_bytes is not None
        assert much.memory_peak_bytes > 1 << 20
        assert much.held_s > 0
        await desk.lose_sandbox(session_id)
        (again,) = await used("1")
        assert again.sandbox_id != much.sandbox_id


async def test_output_comes_while_the_cell_runs(tmp_path: Path) -> None:
    """What a cell prints is given before it ends, half characters included, and then its result."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.cells.wake(session_id)
        code = (
            "import os, sys, tempfile, time\nos.chdir(tempfile.gettempdir())\n"
            "print('é', end='', flush=True); os.write(2, b'\\xff')\n"
            "while not os.path.exists('go'): time.sleep(0.01)\nprint('end')"
        )
        run_id = await desk.cells.start(session_id, CellAsked(code=code))
        seen = {"stdout": "", "stderr": ""}
        done: CellDone | None = None
        async with aclosing(desk.cells.watch(session_id, run_id)) as pieces:
            async for piece in pieces:
                match piece:
                    case Printed():
                        seen[piece.stream] += piece.text
                        if seen == {"stdout": "é", "stderr": "\\xff"}:
                            await desk.contents.put_file(session_id, "go", chunks(b""))
                    case CellDone():
                        done = piece
        assert seen == {"stdout": "éend\n", "stderr": "\\xff"}
        assert done is not None
        assert done.stop_reason is StopReason.CELL_DONE


async def test_an_interrupt_ends_the_cell_and_keeps_the_variables(tmp_path: Path) -> None:
    """A cell that would go on for ever is interrupted; what it had set by then stays, and rebuilds go on without it."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "before = 1")
        run_id = await desk.cells.start(session_id, CellAsked(code="x = 2\nprint('on', flush=True)\nwhile True: pass"))
        async with aclosing(desk.cells.watch(session_id, run_id)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Printed):
                    await desk.cells.interrupt(session_id)
                if isinstance(piece, CellDone):
                    assert piece.stop_reason is StopReason.CANCELLED
                    assert piece.result is not None
                    assert piece.result.raised is not None
                    assert piece.result.raised.type_name == "KeyboardInterrupt"
        assert await desk.printed(session_id, "print(before, x)") == "1 2\n"
        await desk.cells.interrupt(session_id)  # nothing runs: no effect


async def test_a_restart_empties_the_namespace_for_good(tmp_path: Path) -> None:
    """After a restart no variable is there, not even after the sandbox was lost; files are."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "x = 1")
        await desk.contents.put_file(session_id, "f", chunks(b"file"))
        await desk.cells.restart(session_id)
        assert await desk.contents.variables(session_id) == []
        await desk.run(session_id, "y = 2")
        await desk.lose_sandbox(session_id)
        with pytest.raises(ValueMissing):
            await desk.value(session_id, "x")
        assert await desk.value(session_id, "y") == b"2"
        standing = await desk.contents.look_at_file(session_id, "f")
        read = desk.contents.read_file(session_id, standing, 0, standing.size_bytes)
        assert b"".join([piece async for piece in read]) == b"file"


async def test_a_paused_session_holds_no_sandbox_and_takes_no_work(tmp_path: Path) -> None:
    """Pausing gives the sandbox up and refuses cells and runs; resumed, the session is as it was."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "x = 5")
        assert (await desk.sessions.get(session_id)).state == "ready"
        paused = await desk.sessions.pause(session_id)
        assert (paused.state, paused.isolation) == ("paused", None)
        with pytest.raises(SessionPaused):
            await desk.run(session_id, "x")
        with pytest.raises(SessionPaused):
            await on.service.runs.submit(await on.request("c", session_id=session_id))
        with pytest.raises(SessionPaused):
            await desk.contents.variables(session_id)
        assert (await desk.sessions.resume(session_id)).state == "idle"
        assert await desk.printed(session_id, "print(x)") == "5\n"


async def test_a_busy_session_says_so(tmp_path: Path) -> None:
    """While a cell runs, variables are refused as busy, files are not, and another cell waits its turn."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.cells.wake(session_id)
        code = (
            "import os, tempfile, time\nprint('on', flush=True)\n"
            "while not os.path.exists(tempfile.gettempdir() + '/go'): time.sleep(0.01)\nfirst = 1"
        )
        run_id = await desk.cells.start(session_id, CellAsked(code=code))
        second = await desk.cells.start(session_id, CellAsked(code="print(first)"))
        async with aclosing(desk.cells.watch(session_id, run_id)) as pieces:
            assert isinstance(await anext(pieces), Printed)
            assert (await desk.sessions.get(session_id)).state == "busy"
            with pytest.raises(SessionBusy):
                await desk.contents.variables(session_id)
            with pytest.raises(SessionBusy):
                await desk.sessions.pause(session_id)
            await desk.contents.put_file(session_id, "go", chunks(b""))
        done = await desk.cells.done(second)
        assert done.result is not None
        assert done.result.stdout.head == "1\n"


async def test_sessions_are_kept_listed_changed_and_closed(tmp_path: Path) -> None:
    """A session's name, metadata and budget can be set and changed alone; a closed one takes nothing more."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        first = await desk.sessions.open(SessionChange(name="one", metadata={"a": "b"}))
        second = await desk.sessions.open(SessionChange(budget=parse_usd("2")))
        assert [view.session_id for view in await desk.sessions.list()] == [second.session_id, first.session_id]
        changed = await desk.sessions.change(first.session_id, SessionChange(budget=parse_usd("1")))
        assert (changed.name, changed.metadata, changed.budget) == ("one", {"a": "b"}, parse_usd("1"))
        assert await desk.sessions.get(first.session_id) == changed
        await desk.sessions.close(first.session_id)
        await desk.sessions.close(first.session_id)
        assert (await desk.sessions.get(first.session_id)).state == "closed"
        with pytest.raises(BadRequest, match="closed"):
            await desk.run(first.session_id, "1")
        with pytest.raises(NotFound):
            await desk.sessions.get(SessionId("ses_" + "0" * 32))


@pytest.mark.parametrize(
    "change",
    [
        SessionChange(name="x" * 201),
        SessionChange(name="a\nb"),
        SessionChange(metadata={str(n): "" for n in range(17)}),
        SessionChange(metadata={"": "x"}),
        SessionChange(metadata={"k": "x" * 513}),
        SessionChange(budget=parse_usd("0")),
    ],
)
async def test_impossible_details_are_refused(tmp_path: Path, change: SessionChange) -> None:
    """Names, metadata and budgets have bounds."""
    async with stage(tmp_path, FINISH) as on:
        with pytest.raises(BadRequest):
            await Desk.of(on).sessions.open(change)


async def test_what_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    """A wrong name, a value that is not JSON, a missing variable and a missing file are the caller's mistakes."""
    async with stage(tmp_path, FINISH) as on:
        desk = Desk.of(on)
        session_id = (await desk.sessions.open(SessionChange())).session_id
        for name in ("not a name", "llm_query", "print", "_x"):
            with pytest.raises(BadRequest):
                await desk.contents.write_variable(session_id, name, chunks(b"1"), as_="json")
        with pytest.raises(BindRefused):
            await desk.contents.write_variable(session_id, "v", chunks(b"{nope"), as_="json")
        with pytest.raises(ValueMissing):
            await desk.value(session_id, "v")
        with pytest.raises(FileMissing):
            await desk.contents.look_at_file(session_id, "nothing")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):  # together, they wake one sandbox
                tasks.start_soon(desk.contents.files, session_id)


async def test_a_session_that_another_replica_uses_is_not_restarted(tmp_path: Path) -> None:
    """While a run elsewhere is in the session a restart asks its cell to stop and says "busy"; the namespace stays."""
    async with stage(tmp_path, FINISH) as on:
        desk, runs = Desk.of(on), on.service.runs
        session_id = (await desk.sessions.open(SessionChange())).session_id
        cell = replace(await on.request("c", session_id=session_id), question="", code="1")
        journal, run_id = runs.rooms.journal, await runs.submit(cell)
        # That replica is another keeper of the run, which has claimed run and session. The lease of the one that
        # submitted the run is given up before.
        mine = await journal.claim(run_id, runs.rooms.leases.replica, for_s=60)
        await journal.let_go(run_id, mine.epoch)
        theirs = await journal.claim(run_id, "another", for_s=600)
        await runs.rooms.session.records.claim(session_id, run_id, journal.fence(run_id, theirs.epoch))
        with pytest.raises(SessionBusy, match="another replica"):
            await desk.cells.restart(session_id)
        assert await journal.cancel_requested(run_id)


async def test_a_cell_on_another_replica_is_said_to_be_there(tmp_path: Path) -> None:
    """Who watches it hears that its output is not to be had here, and at last how it ended."""
    async with stage(tmp_path, FINISH) as on:
        desk, runs = Desk.of(on), on.service.runs
        session_id = (await desk.sessions.open(SessionChange())).session_id
        cell = replace(await on.request("c", session_id=session_id), question="", code="1")
        journal, run_id = runs.rooms.journal, await runs.submit(cell)
        mine = await journal.claim(run_id, runs.rooms.leases.replica, for_s=60)
        await journal.let_go(run_id, mine.epoch)
        theirs = await journal.claim(run_id, "another", for_s=600)
        async with aclosing(desk.cells.watch(session_id, run_id)) as heard:
            assert await anext(heard) == Elsewhere()
            ended = RunFinished(
                at=1.0,
                stop_reason=StopReason.CELL_DONE,
                answer_source=AnswerSource.PARTIAL,
                answer=None,
                spent=NanoUSD(0),
            )
            await journal.append(run_id, theirs.epoch, ended)
            with anyio.fail_after(60):
                rest = [each async for each in heard if each != Silence()]
        (done,) = rest
        assert isinstance(done, CellDone)
        assert done.stop_reason is StopReason.CELL_DONE


async def test_who_waits_for_a_cell_that_is_erased_is_told_so(tmp_path: Path) -> None:
    """A cell that had not ended when its run was erased is not found any more, by those who wait for it either."""
    async with stage(tmp_path, FINISH) as on:
        desk, runs = Desk.of(on), on.service.runs
        session_id = (await desk.sessions.open(SessionChange())).session_id
        journal = runs.rooms.journal
        run_id = await runs.submit(replace(await on.request("c", session_id=session_id), question="", code="1"))
        refusals: list[NotFound] = []

        async def wait() -> None:
            try:
                await desk.cells.done(run_id)
            except NotFound as exc:
                refusals.append(exc)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                async with aclosing(journal.pages(run_id, patience_s=60.0)) as pages:
                    assert await anext(pages)  # asked for behind the waiter's own first page
                await journal.forget(run_id)
                on.service.store.wake_topic(Keys(EMBEDDED_TENANT)("run", run_id, "events"))
        (refusal,) = refusals
        assert run_id in str(refusal)


async def test_a_session_that_a_run_elsewhere_is_in_is_busy_here_too(tmp_path: Path) -> None:
    """Nothing of it is read, written or paused meanwhile, and it is shown as busy."""
    async with stage(tmp_path, FINISH) as on:
        desk, runs = Desk.of(on), on.service.runs
        session_id = (await desk.sessions.open(SessionChange())).session_id
        cell = replace(await on.request("c", session_id=session_id), question="", code="1")
        journal, run_id = runs.rooms.journal, await runs.submit(cell)
        mine = await journal.claim(run_id, runs.rooms.leases.replica, for_s=60)
        await journal.let_go(run_id, mine.epoch)
        theirs = await journal.claim(run_id, "another", for_s=600)
        await runs.rooms.session.records.claim(session_id, run_id, journal.fence(run_id, theirs.epoch))
        for attempt in (
            desk.contents.variables(session_id),
            desk.contents.files(session_id),
            desk.contents.put_file(session_id, "f", chunks(b"x")),
            desk.contents.write_variable(session_id, "v", chunks(b"1"), as_="json"),
            desk.sessions.pause(session_id),
        ):
            with pytest.raises(SessionBusy, match=run_id):
                await attempt
        view = await desk.sessions.get(session_id)
        assert (view.state, view.run_id) == ("busy", run_id)


async def test_two_replicas_never_see_an_older_session_than_there_is(tmp_path: Path) -> None:
    """What a cell, a restart or a written variable at one replica has changed, the other finds, although it still has
    the sandbox of before."""
    async with world(tmp_path) as it, open_service(it.settings) as one, open_service(it.beside()) as other:
        first, second = Desk.beside(one), Desk.beside(other)
        session_id = (await first.sessions.open(SessionChange())).session_id
        await first.printed(session_id, "x = 1")
        await second.printed(session_id, "x = 2")
        assert await first.value(session_id, "x") == b"2"
        await second.cells.restart(session_id)
        assert await first.printed(session_id, "print('x' in globals())") == "False\n"
        await second.contents.write_variable(session_id, "y", chunks(b"5"), as_="json")
        assert await first.value(session_id, "y") == b"5"


@pytest.mark.parametrize("how", ["pause", "close", "use"])
async def test_a_sandbox_ends_that_another_replica_was_told_to_give_up(tmp_path: Path, how: str) -> None:
    """Of a session that was paused, closed or used at another replica no idle sandbox is left here, although nobody
    comes here any more; before that it stays."""
    async with world(tmp_path) as it, open_service(it.settings) as one, open_service(it.beside()) as other:
        first, second, kept = Desk.beside(one), Desk.beside(other), one.tenancy.kept
        session_id = (await first.sessions.open(SessionChange())).session_id
        await first.printed(session_id, "x = 1")
        async with one.runs.seats.between_runs(session_id, patience_s=60.0) as session:
            assert session is not None
            sandbox = session.opened
        await kept.rest(FOR_EVER, 0.0)
        assert kept.by_id[session_id].is_in_slot
        match how:
            case "pause":
                assert (await second.sessions.pause(session_id)).state == "paused"
            case "close":
                await second.sessions.close(session_id)
            case _:
                assert await second.value(session_id, "x") == b"1"
        await kept.rest(FOR_EVER, 0.0)
        assert not sandbox.is_running
        assert session_id not in kept.by_id
        if how == "pause":
            await second.sessions.resume(session_id)
            assert await first.value(session_id, "x") == b"1"


async def test_a_run_that_came_just_before_a_pause_leaves_no_sandbox(tmp_path: Path) -> None:
    """Submitted before the pause and begun after it, it ends as it would have; then the session rests."""
    async with stage(tmp_path, FINISH) as on:
        desk, runs = Desk.of(on), on.service.runs
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.run(session_id, "x = 5")
        run_id = await runs.submit(await on.request("c", session_id=session_id))
        await desk.sessions.pause(session_id)
        runs.start(run_id)
        ended = runs.end_of(run_id)
        assert ended is not None
        with anyio.fail_after(60):
            await ended.wait()
        assert (await runs.show(run_id)).stop_reason is StopReason.ANSWERED
        await on.service.tenancy.kept.rest(FOR_EVER, 0.0)
        assert (await desk.sessions.get(session_id)).state == "paused"
        assert session_id not in on.service.tenancy.kept.by_id


async def test_a_change_between_runs_is_refused_once_another_replica_has_come(tmp_path: Path) -> None:
    """A write whose session was claimed elsewhere while it was under way is not logged, and the caller is told so."""
    async with stage(tmp_path, FINISH) as on:
        desk, runs = Desk.of(on), on.service.runs
        session_id = (await desk.sessions.open(SessionChange())).session_id
        await desk.printed(session_id, "x = 1")
        records, cell_log = runs.rooms.session.records, runs.rooms.session.cell_log
        before = await cell_log.read(session_id)

        async def kept(session_id: SessionId, blob: BlobRef) -> None:
            """Called when nothing but the writing itself is left to be done."""
            await records.take(session_id, await records.epoch_of(session_id))

        contents = SessionContents(runs, desk.cells, keep=kept, keep_read_out=kept)
        with pytest.raises(SessionBusy, match="another replica"):
            await contents.write_variable(session_id, "x", chunks(b"2"), as_="json")
        assert await cell_log.read(session_id) == before
        assert await desk.value(session_id, "x") == b"1"
