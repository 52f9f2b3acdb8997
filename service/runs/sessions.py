"""Sessions: a sandbox with the cell log that it can be rebuilt from.

A session keeps one ordered log of what shaped its namespace (contexts bound, cells run) and runs one cell at a time.
When the kernel dies, or the whole sandbox, the log is played again in a fresh one, host calls answered from the
records. Host calls are a cell's only effect on the world, so running it twice changes nothing outside.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import anyio
from pydantic import TypeAdapter

from sandbox_image.protocol import Binding, BindingKind, BoundFile
from service.ids import CellId, RunId, SessionId
from service.journal.cell_log import CellLog
from service.journal.sessions import Sessions
from service.journal.values import CellRecord
from service.loop.values import BlobRef, CellResult, CellStatus, Message
from service.runs.bindings import BindsContexts, Bound, Wanted
from service.runs.host_calls import HostCalls, OpenCell
from service.sandboxes.pool import Pool
from service.sandboxes.port import SandboxGone, Template
from service.sandboxes.sandbox import Sandbox
from service.store.blobs import Blobs

AnswerForm = Literal["text", "json"]

REBUILD_LIMIT_S = 120.0
"""Of one re-run cell: its host calls are answered at once, so it needs less than it did."""

_WANTED = TypeAdapter(Wanted)
_BLOB = TypeAdapter(BlobRef)
_MESSAGES = TypeAdapter(tuple[Message, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLimits:
    """Bounds on one cell."""

    active_s: float
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """How a rebuild went. `missing` names variables that could not be brought back."""

    cells: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRooms:
    """What a session works with."""

    pool: Pool
    template: Template
    records: Sessions
    cell_log: CellLog
    blobs: Blobs
    contexts: BindsContexts


class OpenSession:
    """A session on this replica. One run at a time uses it: a host call is charged to the run whose cell is active."""

    def __init__(self, session_id: SessionId, *, rooms: SessionRooms) -> None:
        self.session_id = session_id
        self.turnstile = anyio.Lock()
        """Held by the run that uses the session."""
        self.sandbox: Sandbox | None = None
        self._rooms = rooms
        self._is_fresh = False
        """Whether the sandbox has not seen the session's log yet."""
        self._reruns = 0

    def __repr__(self) -> str:
        return f"<OpenSession {self.session_id} {self.sandbox!r}>"

    async def open(self, grant: str) -> Sandbox:
        """Give the session a sandbox of its own, or the one that it has a new grant.

        Raises:
            SandboxRefused, SandboxStartFailed, SandboxGone: there is none to be had.
        """
        if self.sandbox is not None and self.sandbox.is_running:
            await self.sandbox.replace_grant(grant)
            return self.sandbox
        await self.close()
        record = await self._rooms.records.get(self.session_id)
        generation = await self._rooms.records.next_generation(self.session_id)
        sandbox = await self._rooms.pool.acquire(self._rooms.template, hash_seed=record.hash_seed)
        try:
            await sandbox.claim(generation=generation, grant=grant, random_seed=record.random_seed)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._rooms.pool.release(sandbox)
            raise
        self.sandbox = sandbox
        await self._rooms.records.set_hash_seed(self.session_id, sandbox.hash_seed)
        self._is_fresh = True
        return sandbox

    async def close(self) -> None:
        """End the sandbox; nobody uses it again. The log stays, so the session can be opened in another one."""
        if self.sandbox is not None:
            sandbox, self.sandbox = self.sandbox, None
            with anyio.CancelScope(shield=True):
                await self._rooms.pool.release(sandbox)

    async def prepare(self, run_id: RunId, wanted: Wanted, host_calls: HostCalls, finished: frozenset[CellId]) -> None:
        """Make an opened sandbox ready for a run: what earlier cells left, then the run's own bindings.

        `finished` are the run's cells that its journal knows the end of. A cell that was logged just before a crash,
        but not journalled, is the run's open cell still: it is about to run, and must not have run already.

        Raises:
            BindRefused: a context or a tool does not go in; the message says why.
            SandboxGone: the sandbox died of it.
        """
        records = await self._rooms.cell_log.read(self.session_id)
        if self._is_fresh:
            open_cells = {r.cell_id for r in records if r.run_id == run_id and r.kind == "cell"} - finished
            await self._play([r for r in records if r.cell_id not in open_cells], host_calls)
        if all(record.cell_id != _bind_id(run_id) for record in records):
            await self._begin_run(wanted)
            code = _WANTED.dump_json(wanted).decode()
            await self._log(CellRecord(cell_id=_bind_id(run_id), run_id=run_id, kind="bind", code=code))

    async def bind_history(self, run_id: RunId, cell_id: CellId, messages: tuple[Message, ...]) -> None:
        """Offload a part of the root's conversation into `history`."""
        blob = await self._rooms.blobs.put(_MESSAGES.dump_json(messages), media="json")
        await self._bind(self._history(blob))
        await self._log(CellRecord(cell_id=cell_id, run_id=run_id, kind="history", code=_BLOB.dump_json(blob).decode()))

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
                answer_sha256=result.answer.sha256 if result.answer is not None else None,
                variables=result.variables,
            )
        )
        return result

    async def rebuild(self, new_grant: Callable[[], str], host_calls: HostCalls) -> Rebuilt:
        """Bring the namespace back in a fresh kernel, in a new sandbox if the old one is gone.

        Raises:
            SandboxRefused, SandboxStartFailed, SandboxGone: there is no sandbox to rebuild in.
        """
        if self.sandbox is None or not self.sandbox.is_running:
            await self.open(new_grant())
        return await self._play(await self._rooms.cell_log.read(self.session_id), host_calls)

    async def _play(self, records: list[CellRecord], host_calls: HostCalls) -> Rebuilt:
        """Do again, in order, everything that shaped the namespace."""
        self._is_fresh = False
        self._reruns += 1
        missing: set[str] = set()
        cells = 0
        for index, record in enumerate(records):
            match record.kind:
                case "bind":
                    await self._begin_run(_WANTED.validate_json(record.code))
                case "history":
                    await self._bind(self._history(_BLOB.validate_json(record.code)))
                case "cell" if record.status in (CellStatus.KILLED, CellStatus.TIMED_OUT):
                    # What killed the kernel would kill it again; what was cut short cannot be cut at the same point.
                    missing.update(record.variables)
                case "cell":
                    cells += 1
                    result = await self._rerun(record, host_calls)
                    if host_calls.has_diverged or result.namespace_lost:
                        missing.update(name for later in records[index:] for name in later.variables)
                        break
                    if result.status is not record.status or _stdout_digest(result) != record.stdout_sha256:
                        missing.update(record.variables)
        return Rebuilt(cells=cells, missing=tuple(sorted(missing)))

    async def _rerun(self, record: CellRecord, host_calls: HostCalls) -> CellResult:
        host_calls.has_diverged = False
        cell = OpenCell(wire_id=f"{record.cell_id}~{self._reruns}", cell_id=record.cell_id, is_rerun=True)
        limits = CellLimits(active_s=REBUILD_LIMIT_S, wall_s=REBUILD_LIMIT_S)
        return await self._run(cell, record.code, limits, "text", host_calls)

    async def _run(
        self, cell: OpenCell, code: str, limits: CellLimits, answer_form: AnswerForm, host_calls: HostCalls
    ) -> CellResult:
        host_calls.open(cell)
        try:
            return await self._opened.run_cell(
                CellId(cell.wire_id),
                code,
                active_limit_s=limits.active_s,
                wall_limit_s=limits.wall_s,
                answer_as=answer_form,
                is_waiting=lambda: host_calls.is_busy,
            )
        finally:
            host_calls.close_cell()

    async def _begin_run(self, wanted: Wanted) -> None:
        bound = await self._rooms.contexts.bound(wanted)
        await self._opened.bind(bound.bindings, bound.files, starts_run=True)

    async def _bind(self, bound: Bound) -> None:
        await self._opened.bind(bound.bindings, bound.files)

    async def _log(self, record: CellRecord) -> None:
        await self._rooms.cell_log.append(self.session_id, record)

    def _history(self, blob: BlobRef) -> Bound:
        link = f"history-{blob.sha256}.json"
        binding = Binding(
            name="history",
            kind=BindingKind.JSON,
            files=[BoundFile(part="", file=link, size_bytes=blob.size_bytes)],
        )
        return Bound(bindings=(binding,), files={link: self._rooms.blobs.path(blob.sha256)})

    @property
    def _opened(self) -> Sandbox:
        if self.sandbox is None:
            raise SandboxGone(f"session {self.session_id} has no sandbox any more")
        return self.sandbox


def _bind_id(run_id: RunId) -> CellId:
    return CellId(f"{run_id}.bind")


def _stdout_digest(result: CellResult) -> str:
    stdout = result.stdout
    captured = f"{stdout.size_bytes}\n{stdout.head}\n{stdout.tail}"
    return hashlib.sha256(captured.encode("utf-8", "surrogatepass")).hexdigest()
