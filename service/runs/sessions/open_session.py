"""Sessions: a sandbox with the cell log that it can be rebuilt from.

A session keeps one ordered log of what shaped its namespace (contexts bound, cells run) and runs one cell at a time.
When the kernel dies, or the whole sandbox, the log is replayed in a fresh one, host calls answered from the records
(`replaying` says what of it), which begins with an empty working directory: files that callers put are put there again,
and cells write theirs again. Host calls are a cell's only effect on the world, so running it twice changes nothing
outside.
"""

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import anyio

from sandbox_image.protocol import Binding, BindingKind, BoundFile
from service.errors import BadRequest, NotFound
from service.ids import CellId, RunId, SessionId
from service.journal.cell_log import CellLog
from service.journal.redis_journal import Journal
from service.journal.sessions import Sessions
from service.journal.values import CellRecord, SessionRecord
from service.loop.values import BlobRef, CellResult, CellStatus, Message
from service.runs.host_calls.host_calls import HostCalls, OpenCell
from service.runs.sessions.bindings import BindsContexts, Bound, Wanted
from service.runs.sessions.conversations import conversation_of
from service.runs.sessions.replaying import (
    BLOB,
    MESSAGES,
    PUT,
    WANTED,
    WRITTEN,
    Found,
    Outcome,
    Plan,
    PutFile,
    Rebuilt,
    WrittenVariable,
    plan_for,
    rerun_limit_s,
)
from service.runs.sessions.sandbox_uses import SandboxUses
from service.sandboxes.files import FileMissing, FileTooLarge, NotAFile
from service.sandboxes.pool import Pool
from service.sandboxes.port import SandboxGone, Template
from service.sandboxes.sandbox import Sandbox
from service.sandboxes.values import Beginning, BindRefused
from service.store.blobs import Blobs
from service.store.fences import NO_FENCE, Fence

AnswerForm = Literal["text", "json"]

FILE_REFUSALS = (BadRequest, FileTooLarge, NotAFile)
CLAIM_TRIES = 3
"""Sandboxes that a session tries to claim, one after the other, before it counts as lost."""
MAX_HISTORIES = 20
"""Earlier conversations that a run of a session finds, the newest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLimits:
    """Bounds on one cell."""

    active_s: float
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRooms:
    """What a session works with."""

    pool: Pool
    template: Template
    records: Sessions
    journal: Journal
    cell_log: CellLog
    blobs: Blobs
    contexts: BindsContexts


class OpenSession:
    """A session on this replica, with its sandbox while it has one. `seats` lets in one run at a time."""

    def __init__(self, session_id: SessionId, *, rooms: SessionRooms) -> None:
        self.session_id = session_id
        self.sandbox: Sandbox | None = None
        self.uses = SandboxUses()
        """What the sandboxes of its present run used."""
        self._rooms = rooms
        self._is_fresh = False
        """Whether the sandbox has not seen the session's log yet."""
        self._run_id: RunId | None = None
        """The run that uses the session."""
        self._fence = NO_FENCE
        """Of all that is written for the session: of the run that uses it, or of its last claim on this replica."""
        self._rebuilt: Rebuilt | None = None
        """How the namespace came back, as long as nothing has changed it since."""
        self._one_rebuild = anyio.Lock()
        """From reading the log to its last record nobody puts files."""
        self._attempts = 0
        """To replay; they tell re-run cells apart on the wire."""

    def __repr__(self) -> str:
        return f"<OpenSession {self.session_id} {self.sandbox!r}>"

    async def open(self, grant: str, beginning: Beginning | None = None) -> Sandbox:
        """Give the session a sandbox of its own, its namespace begun with what is given, or the one that it has a new
        grant.

        Raises:
            SandboxRefused, SandboxStartFailed, SandboxGone: there is none to be had.
            BindRefused: the namespace cannot begin like that; the session has no sandbox then.
        """
        if self.sandbox is not None and self.sandbox.is_running:
            await self.sandbox.replace_grant(grant)
            return self.sandbox
        await self.close()
        record = await self._rooms.records.get(self.session_id)
        self.sandbox = await self._claimed(record, grant, beginning)
        self._is_fresh = True
        self.uses.began(self.sandbox)
        try:
            await self._rooms.records.set_hash_seed(self.session_id, self.sandbox.hash_seed, self._fence)
        except BaseException:
            # Whoever comes next must not take it for one that has seen the log, or that can be rebuilt alike.
            await self.close()
            raise
        return self.sandbox

    async def _claimed(self, record: SessionRecord, grant: str, beginning: Beginning | None) -> Sandbox:
        """One that dies of the claim, as a warm one may when the machine runs out of memory, costs a try and not the
        run."""
        for left in reversed(range(CLAIM_TRIES)):
            generation = await self._rooms.records.next_generation(self.session_id, self._fence)
            sandbox = await self._rooms.pool.acquire(self._rooms.template, hash_seed=record.hash_seed)
            try:
                await sandbox.claim(
                    generation=generation, grant=grant, random_seed=record.random_seed, beginning=beginning
                )
            except BaseException as exc:
                with anyio.CancelScope(shield=True):
                    await self._rooms.pool.release(sandbox)
                if left and isinstance(exc, SandboxGone):
                    continue
                raise
            return sandbox
        raise AssertionError("unreachable: the last try returns or raises")

    def fence_by(self, fence: Fence) -> None:
        """Of what its caller changes between runs, where no run has used it here."""
        self._fence = fence

    async def close(self) -> None:
        """End the sandbox; nobody uses it again. The log stays, so the session can be opened in another one."""
        self.uses.ended()
        if self.sandbox is not None:
            sandbox, self.sandbox = self.sandbox, None
            with anyio.CancelScope(shield=True):
                await self._rooms.pool.release(sandbox)

    async def prepare(
        self,
        run_id: RunId,
        wanted: Wanted,
        finished: frozenset[CellId],
        new_grant: Callable[[], str],
        host_calls: HostCalls,
        *,
        fence: Fence,
    ) -> Rebuilt | None:
        """Open the session and make it ready for a run: what earlier cells left, then the run's own bindings. Returns
        how the earlier cells came back, when there were any to be done again.

        `finished` are the run's cells that its journal knows the end of. A cell that was logged just before a crash,
        but not journalled, is the run's open cell still: it is about to run, and must not have run already. `fence` is
        that of everything that is logged for the run.

        Raises:
            SandboxRefused, SandboxStartFailed, SandboxGone: there is no sandbox to be had, or it died of it.
            BindRefused, NotFound: a context or a tool of this run does not go in; the message says why.
        """
        self._run_id, self._fence = run_id, fence
        self.uses.begin_run(self.sandbox)
        async with self._one_rebuild:
            records = await self._rooms.cell_log.read(self.session_id)
            is_bound = any(record.cell_id == _bind_id(run_id) for record in records)
            binds = not is_bound and bool(wanted.begins_run or wanted.contexts or wanted.tools)
            if binds and wanted.begins_run:
                wanted = replace(wanted, histories=await self._histories(records))
            begins = binds and not records and (self.sandbox is None or not self.sandbox.is_running)
            await self.open(new_grant(), await self._beginning(wanted) if begins else None)
            rebuilt = self._rebuilt = None
            if self._is_fresh:
                open_cells = {r.cell_id for r in records if r.run_id == run_id and r.kind == "cell"} - finished
                plan = plan_for(record for record in records if record.cell_id not in open_cells)
                rebuilt = self._rebuilt = await self._replay(plan, new_grant, host_calls)
        if binds:
            if not begins:
                await self._bind(wanted)
            code = WANTED.dump_json(wanted).decode()
            await self._log(CellRecord(cell_id=_bind_id(run_id), run_id=run_id, kind="bind", code=code))
        return rebuilt if rebuilt is not None and rebuilt.is_worth_telling else None

    async def bind_history(self, run_id: RunId, cell_id: CellId, messages: tuple[Message, ...]) -> None:
        """Offload a part of the root's conversation into `history`."""
        self._rebuilt = None
        blob = await self._rooms.blobs.put(MESSAGES.dump_json(messages), media="json")
        await self._bind_offloaded(blob)
        await self._log(CellRecord(cell_id=cell_id, run_id=run_id, kind="history", code=BLOB.dump_json(blob).decode()))

    async def run_cell(
        self,
        run_id: RunId,
        cell: tuple[CellId, str],
        limits: CellLimits,
        answer_form: AnswerForm,
        host_calls: HostCalls,
    ) -> CellResult:
        """Run one cell (its id and code) and log it.

        Raises:
            SandboxGone: the sandbox died; the cell is logged as killed.
        """
        cell_id, code = cell
        open_cell = OpenCell(wire_id=cell_id, cell_id=cell_id)
        record = CellRecord(cell_id=cell_id, run_id=run_id, kind="cell", code=code, status=CellStatus.KILLED)
        try:
            result = await self._run(open_cell, code, limits, answer_form, host_calls)
        except SandboxGone:
            await self._log(record)
            raise
        await self._log(
            CellRecord(
                cell_id=cell_id,
                run_id=run_id,
                kind="cell",
                code=code,
                status=result.status,
                stdout_sha256=_stdout_digest(result),
                answer_form=answer_form,
                answer_sha256=_answer_digest(result),
                variables=result.variables,
                was_interrupted=host_calls.are_cancelled,
                active_s=result.active_s,
            )
        )
        return result

    async def write_variable(self, written: WrittenVariable) -> None:
        """Give a variable a value. Raises `BindRefused`, `SandboxBusy`, `SandboxGone`, `StaleEpoch`."""
        await self._write(written)
        await self._log_of_caller("variable", WRITTEN.dump_json(written))

    async def put_file(self, put: PutFile) -> None:
        """Put a file into the working directory, or delete it there. May be called beside a running cell; waits while
        the session is rebuilt, so that the rebuild undoes nothing.

        Raises:
            BadRequest, FileMissing, NotAFile, FileTooLarge: as `SandboxFiles` has it.
            SandboxGone: there is no sandbox (any more).
            StaleEpoch: the session is used elsewhere by now.
        """
        async with self._one_rebuild:
            await self._put(put)
            await self._log_of_caller("file", PUT.dump_json(put))

    async def restart(self) -> None:
        """Empty the namespace, for rebuilds too. Raises `StaleEpoch`, and `SandboxGone`: then there is nothing left
        anyway."""
        await self._log_of_caller("restart", b"")
        if self.sandbox is not None and self.sandbox.is_running:
            await self.sandbox.restart()

    async def rebuild(self, new_grant: Callable[[], str], host_calls: HostCalls) -> Rebuilt:
        """Bring the namespace back in a fresh kernel, in a new sandbox if the old one is gone. Broken off by a
        cancellation or a failure, it leaves no sandbox: the next `prepare` begins it anew. Nothing is done where
        `prepare` has just brought it back (a run that was taken over while its namespace was lost).

        Raises:
            SandboxRefused, SandboxStartFailed, SandboxGone: there is no sandbox to rebuild in.
            BindRefused, NotFound: what the run itself had bound cannot be bound again.
        """
        if self._rebuilt is not None and self.sandbox is not None and self.sandbox.is_running:
            return self._rebuilt
        if self.sandbox is None or not self.sandbox.is_running:
            await self.open(new_grant())
        async with self._one_rebuild:
            plan = plan_for(await self._rooms.cell_log.read(self.session_id))
            return await self._replay(plan, new_grant, host_calls)

    async def _replay(self, plan: Plan, new_grant: Callable[[], str], host_calls: HostCalls) -> Rebuilt:
        """Do the plan in a kernel that nothing has run in, and smaller ones in further kernels while it breaks off."""
        try:
            if not self._is_fresh:
                await self._take_fresh_kernel(new_grant)  # what died has written files, which are written again
            found = Found()
            while (broken := await self._attempt(plan, found, host_calls)) is not None:
                plan = plan.without(*broken)
                await self._take_fresh_kernel(new_grant)
        except BaseException:
            # Half a namespace must not pass for a whole one.
            await self.close()
            raise
        self._is_fresh = False
        return plan.rebuilt(found)

    async def _attempt(self, plan: Plan, found: Found, host_calls: HostCalls) -> tuple[CellRecord, Outcome] | None:
        """Do everything that is due; where it broke off and why, or None. Fills `found`."""
        self._attempts += 1
        found.clear()
        for record in plan.due:
            match await self._redo(record, host_calls):
                case "same":
                    continue
                case "other":
                    found.others.add(record.cell_id)
                case "left out":
                    found.left_out.add(record.cell_id)
                case "impossible" | "diverged" as outcome:
                    return record, outcome
                case unreachable:
                    assert_never(unreachable)
        return None

    async def _redo(self, record: CellRecord, host_calls: HostCalls) -> Outcome:
        if record.kind == "cell":
            return await self._rerun(record, host_calls)
        try:
            await self._put_back(record)
        except (BindRefused, NotFound, *FILE_REFUSALS):
            if record.kind == "file":
                return "left out"
            if record.run_id == self._run_id:
                raise
            return "impossible"
        return "same"

    async def _put_back(self, record: CellRecord) -> None:
        match record.kind:
            case "bind":
                await self._bind(WANTED.validate_json(record.code))
            case "history":
                await self._bind_offloaded(BLOB.validate_json(record.code))
            case "variable":
                await self._write(WRITTEN.validate_json(record.code))
            case "file":
                await self._put(PUT.validate_json(record.code))
            case "cell" | "restart":
                raise AssertionError("cells are run, and nothing is replayed from before a restart")
            case unreachable:
                assert_never(unreachable)

    async def _rerun(self, record: CellRecord, host_calls: HostCalls) -> Outcome:
        wire_id = f"{record.cell_id}~{self._attempts}"
        limit_s = rerun_limit_s(record)
        with anyio.CancelScope() as scope:
            cell = OpenCell(wire_id=wire_id, cell_id=record.cell_id, is_rerun=True, on_divergence=scope.cancel)
            limits = CellLimits(active_s=limit_s, wall_s=2 * limit_s)
            try:
                result = await self._run(cell, record.code, limits, record.answer_form or "text", host_calls)
            except SandboxGone:
                return "impossible"
        if scope.cancel_called:
            return "diverged"
        if result.namespace_lost:
            return "impossible"
        return "same" if _ended_alike(result, record) else "other"

    async def _take_fresh_kernel(self, new_grant: Callable[[], str]) -> None:
        if self.sandbox is not None and self.sandbox.is_running:
            with suppress(SandboxGone):
                await self.sandbox.start_over()
                return
        await self.open(new_grant())

    async def _run(
        self, cell: OpenCell, code: str, limits: CellLimits, answer_form: AnswerForm, host_calls: HostCalls
    ) -> CellResult:
        self._rebuilt = None
        host_calls.open(cell)
        try:
            return await self.opened.run_cell(
                CellId(cell.wire_id),
                code,
                active_limit_s=limits.active_s,
                wall_limit_s=limits.wall_s,
                answer_as=answer_form,
                is_waiting=lambda: host_calls.is_busy,
            )
        finally:
            host_calls.close_cell()

    async def _bind(self, wanted: Wanted) -> None:
        beginning = await self._beginning(wanted)
        await self.opened.bind(beginning.bindings, beginning.files, starts_run=beginning.starts_run)

    async def _beginning(self, wanted: Wanted) -> Beginning:
        bound = await self._rooms.contexts.bound(wanted)
        last = len(wanted.histories) - 1
        histories = [
            self._history(blob, f"history_{index}", ["history"] if index == last else [])
            for index, blob in enumerate(wanted.histories)
        ]
        files = dict(bound.files)
        for history in histories:
            files |= history.files
        bindings = [*bound.bindings, *(binding for history in histories for binding in history.bindings)]
        return Beginning(bindings=bindings, files=files, starts_run=wanted.begins_run)

    async def _write(self, written: WrittenVariable) -> None:
        value = written.value
        file = BoundFile(part="", file=f"value-{value.sha256}", size_bytes=value.size_bytes)
        kind = BindingKind.JSON if value.media == "json" else BindingKind.TEXT
        binding = Binding(name=written.name, kind=kind, files=[file])
        await self.opened.bind([binding], {file.file: self._rooms.blobs.path(value.sha256)}, as_variables=True)

    async def _put(self, put: PutFile) -> None:
        files = self.opened.files
        if put.content is None:
            with suppress(FileMissing):
                await files.delete(put.path)
        else:
            await files.put(put.path, self._rooms.blobs.path(put.content.sha256), put.content.size_bytes)

    async def _log_of_caller(self, kind: Literal["variable", "file", "restart"], code: bytes) -> None:
        cell_id = CellId(f"{self.session_id}.{secrets.token_hex(8)}")
        await self._log(CellRecord(cell_id=cell_id, run_id=None, kind=kind, code=code.decode()))

    async def _bind_offloaded(self, blob: BlobRef) -> None:
        bound = self._history(blob, "history", [])
        await self.opened.bind(bound.bindings, bound.files)

    async def _histories(self, records: list[CellRecord]) -> tuple[BlobRef, ...]:
        """The conversations of earlier runs, oldest first: those that the run before found, and its own."""
        for before in reversed(records):
            if before.kind == "bind" and (found := WANTED.validate_json(before.code)).begins_run:
                assert before.run_id is not None, "only a run begins a run"
                return await self._histories_after(before.run_id, found.histories)
        return ()

    async def _histories_after(self, run_id: RunId, earlier: tuple[BlobRef, ...]) -> tuple[BlobRef, ...]:
        messages = await conversation_of(self._rooms.journal, run_id)
        blob = await self._rooms.blobs.put(MESSAGES.dump_json(messages), media="json")
        return (*earlier, blob)[-MAX_HISTORIES:]

    async def _log(self, record: CellRecord) -> None:
        await self._rooms.cell_log.append(self.session_id, record, self._fence)

    def _history(self, blob: BlobRef, name: str, aliases: list[str]) -> Bound:
        link = f"history-{blob.sha256}.json"
        file = BoundFile(part="", file=link, size_bytes=blob.size_bytes)
        binding = Binding(name=name, kind=BindingKind.JSON, files=[file], aliases=aliases)
        return Bound(bindings=(binding,), files={link: self._rooms.blobs.path(blob.sha256)})

    @property
    def opened(self) -> Sandbox:
        """Its sandbox. Raises `SandboxGone` when it has none."""
        if self.sandbox is None:
            raise SandboxGone(f"session {self.session_id} has no sandbox any more")
        return self.sandbox


def _bind_id(run_id: RunId) -> CellId:
    return CellId(f"{run_id}.bind")


def _ended_alike(result: CellResult, record: CellRecord) -> bool:
    leaves_same = record.answer_form is None or _answer_digest(result) == record.answer_sha256
    return result.status is record.status and _stdout_digest(result) == record.stdout_sha256 and leaves_same


def _answer_digest(result: CellResult) -> str | None:
    return result.answer.sha256 if result.answer is not None else None


def _stdout_digest(result: CellResult) -> str:
    stdout = result.stdout
    captured = f"{stdout.size_bytes}\n{stdout.head}\n{stdout.tail}"
    return hashlib.sha256(captured.encode("utf-8", "surrogatepass")).hexdigest()
