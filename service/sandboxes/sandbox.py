"""The REPL client: everything that is done with a sandbox, the same whoever started it.

A sandbox that breaks the protocol, is late or goes away is killed, and the caller gets `SandboxGone`: there is no
half-trusted state. What the model's code does wrong is a `CellResult`.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import anyio
import anyio.to_thread
import structlog

from sandbox_image.protocol import (
    DIGEST_HEADER,
    MAX_CODE_BYTES,
    MAX_VARIABLES_REPORTED,
    TYPE_HEADER,
    Binding,
    BindRequest,
    CellReply,
    CellRequest,
    ClaimRequest,
    ErrorCode,
    GrantRequest,
    InterruptRequest,
    Variable,
)
from service.errors import BadRequest, RlmServiceError
from service.ids import CellId, SandboxId
from service.loop.values import CellResult
from service.sandboxes import replies
from service.sandboxes.cell_watch import Allowance, never_waits, watch_cell
from service.sandboxes.dialled_stream import ProtocolBroken
from service.sandboxes.directory import SessionDirectory
from service.sandboxes.exchanges import Exchanges
from service.sandboxes.files import SandboxFiles, SpeaksOfFiles
from service.sandboxes.link import Answer, Link
from service.sandboxes.listener import Listener
from service.sandboxes.output import CellOutput, OutputOffsets, output_of
from service.sandboxes.patience import Patience
from service.sandboxes.port import (
    Isolation,
    Measured,
    Process,
    SandboxGone,
    Template,
)
from service.sandboxes.refusals import Refused, bind_error, kernel_gone, value_error
from service.sandboxes.values import (
    Beginning,
    SandboxBusy,
    SandboxStats,
    ValueStream,
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxParts:
    """What `opening` puts together and a `Sandbox` speaks through."""

    directory: SessionDirectory
    listener: Listener
    link: Link
    process: Process


class Sandbox:
    """One sandbox from start to kill. Single use: claimed at most once, never returned to a pool."""

    def __init__(
        self,
        *,
        sandbox_id: SandboxId,
        template: Template,
        isolation: Isolation,
        hash_seed: int,
        parts: SandboxParts,
        patience: Patience,
    ) -> None:
        self.sandbox_id = sandbox_id
        self.template = template
        self.isolation = isolation
        self.hash_seed = hash_seed
        """The PYTHONHASHSEED it was started with: a rebuilt namespace needs the same."""
        self._parts = parts
        self._patience = patience
        self._exchanges = Exchanges(parts.link, parts.process, patience)
        self._confinement: tuple[str, ...] = ()
        self._unacknowledged: CellId | None = None
        self._asked: tuple[CellId, float] | None = None
        """The last cell, and when it was first asked for: it cannot have taken longer."""
        self._one_cell = anyio.Lock()
        """At most one cell is in flight; the next acknowledges its result."""
        self._one_kill = anyio.Lock()
        self._ending = False
        self._overrun: str | None = None
        """Why the host ended it, where it measured so."""
        self._ended = anyio.Event()
        self._seen: Measured | None = None
        """The most that any measurement found."""
        self._log = _log.bind(sandbox_id=sandbox_id)
        self.files = SandboxFiles(
            parts.directory,
            SpeaksOfFiles(
                ask=self._exchanges.ask,
                exchange=self._exchanges.exchange,
                guarded=self._killed_when_broken,
                deadline_for=self._exchanges.deadline_for,
            ),
            limit_bytes=min(template.file_bytes, template.tmp_bytes),
        )
        """Those of its working directory."""

    @property
    def generation(self) -> int | None:
        """The life count of the session it was claimed for; None before the claim."""
        return self._exchanges.generation

    @property
    def confinement(self) -> tuple[str, ...]:
        """What the inside says it put in force on itself, such as `seccomp`. Known after the claim."""
        return self._confinement

    @property
    def directory(self) -> Path:
        """The session directory."""
        return self._parts.directory.path

    @property
    def process(self) -> Process:
        """The handle to measure it by, from outside."""
        return self._parts.process

    @property
    def is_running(self) -> bool:
        return not self._ending and self._parts.process.is_running

    @property
    def is_paused(self) -> bool:
        return self._exchanges.is_paused

    def idle_s(self, now_s: float) -> float:
        """See `Exchanges.idle_s`."""
        return self._exchanges.idle_s(now_s)

    async def pause(self) -> None:
        """See `Exchanges.pause`."""
        await self._exchanges.pause(lambda: self.is_running)

    async def claim(
        self, *, generation: int, grant: str, random_seed: int, beginning: Beginning | None = None
    ) -> list[Variable]:
        """Make a warm sandbox a session's, with what its namespace begins with, in one exchange. Once.

        Raises:
            BindRefused: it is claimed, but see `bind`.
            BadRequest: see `bind`; it is not claimed.
            SandboxGone: it did not come up.
        """
        bind, deadline_s = None, self._patience.fork_s
        if beginning is not None:
            await anyio.to_thread.run_sync(self._parts.directory.link_contexts, dict(beginning.files))
            bind = BindRequest(bindings=list(beginning.bindings), starts_run=beginning.starts_run)
            deadline_s = self._exchanges.deadline_for(_size_of(beginning.bindings))
        request = ClaimRequest(
            generation=generation,
            grant=grant,
            random_seed=random_seed,
            memory_bytes=self.template.memory_bytes,
            processes=self.template.processes,
            file_bytes=self.template.file_bytes,
            bind=bind,
        )
        async with self._killed_when_broken("was claimed"):
            reply = await replies.read(
                replies.CLAIM, await self._exchanges.ask("POST", "/claim", asdict(request), deadline_s=deadline_s)
            )
            self._confinement = replies.confinement(reply)
            self._exchanges.generation = generation
            if bind is None:
                return []
            if reply.refused is not None:
                raise bind_error(Refused(reply.refused.code, reply.refused.message))
            if reply.bound is None:
                raise ProtocolBroken("a claim without what it was to begin with")
            return replies.variables(reply.bound.variables, replies.MAX_BOUND_VARIABLES)

    async def replace_grant(self, grant: str) -> None:
        """Put the grant of a session's next run in place of the last. Idempotent. Raises `SandboxGone`."""
        async with self._killed_when_broken("received a grant"):
            await self._exchanges.ask("POST", "/grant", asdict(GrantRequest(grant=grant)))

    async def bind(
        self,
        bindings: Sequence[Binding],
        files: Mapping[str, Path],
        *,
        starts_run: bool = False,
        as_variables: bool = False,
    ) -> list[Variable]:
        """Bind contexts and tools into the namespace, in order. `files` maps the bare file names that the bindings
        use to the blobs they stand for; the blobs are hard-linked before the sandbox is told. With `starts_run` the
        namespace begins another run of its session: `answer` is fresh, variables stay. With `as_variables` the names
        are variables like those that cells make; otherwise they are restored before every cell.

        Raises:
            BindRefused: a content is not what its kind says, a tool's code raised, or it does not fit.
            SandboxBusy: a cell runs.
            BadRequest: a file name cannot be used, or the bindings are too many for one request.
            SandboxGone: the sandbox died or broke the protocol.
        """
        await anyio.to_thread.run_sync(self._parts.directory.link_contexts, dict(files))
        request = asdict(BindRequest(bindings=list(bindings), starts_run=starts_run, as_variables=as_variables))
        async with self._killed_when_broken("bound contexts"):
            try:
                body = await self._exchanges.ask(
                    "POST", "/bind", request, deadline_s=self._exchanges.deadline_for(_size_of(bindings))
                )
            except Refused as exc:
                raise bind_error(exc) from exc
            return replies.variables((await replies.read(replies.BIND, body)).variables, replies.MAX_BOUND_VARIABLES)

    async def run_cell(
        self,
        cell_id: CellId,
        code: str,
        *,
        active_limit_s: float,
        wall_limit_s: float,
        grace_s: float = 2.0,
        answer_as: Literal["text", "json"] = "text",
        is_waiting: Callable[[], bool] = never_waits,
    ) -> CellResult:
        """Run a cell and wait for its result. The id makes it safe to call again: a cell that ran, or runs, is never
        run twice, its result is fetched. Running the next cell forgets the result of the one before.

        `is_waiting` says whether a host call of the cell is in flight; it tells active time from waiting where the
        host measures by itself. A cell that overruns there takes the sandbox with it.

        When the caller is cancelled the cell is interrupted and waited for, within the grace; a cell that goes on
        takes the sandbox with it.

        Raises:
            BadRequest: the code is larger than the protocol allows.
            SandboxGone: the sandbox died, broke the protocol or overran every limit.
        """
        if len(code.encode("utf-8", "surrogatepass")) > MAX_CODE_BYTES:
            raise BadRequest(f"a cell may have {MAX_CODE_BYTES} bytes of code, found more in cell {cell_id}")
        async with self._one_cell:
            request = CellRequest(
                code=code,
                active_limit_s=active_limit_s,
                wall_limit_s=wall_limit_s,
                grace_s=grace_s,
                answer_as=answer_as,
                acknowledges=None if self._unacknowledged == cell_id else self._unacknowledged,
            )
            return await self._result_of(cell_id, request, is_waiting)

    async def output(self, cell_id: CellId, after: OutputOffsets) -> CellOutput | None:
        """What the cell has printed from there on, while it runs and until the next one begins; None before it has
        begun. Never waits for the cell. Raises `SandboxGone`."""
        target = f"/cells/{quote(cell_id, safe='')}/output?stdout={after.stdout}&stderr={after.stderr}"
        async with self._killed_when_broken("told what a cell printed"):
            try:
                return output_of(await replies.read(replies.OUTPUT, await self._exchanges.ask("GET", target)), after)
            except Refused as exc:
                if exc.code is ErrorCode.NOT_FOUND:
                    return None
                raise

    async def interrupt(self, cell_id: CellId) -> None:
        """Raise `KeyboardInterrupt` in the cell, if it is running. Idempotent. Raises `SandboxGone`."""
        async with self._killed_when_broken("was interrupted"):
            await self._exchanges.ask("POST", "/interrupt", asdict(InterruptRequest(cell_id=cell_id)))

    async def restart(self) -> None:
        """A fresh kernel with an empty namespace. Raises `SandboxGone`."""
        async with self._killed_when_broken("restarted its kernel"):
            await self._exchanges.ask("POST", "/restart", {}, deadline_s=self._patience.fork_s)

    async def start_over(self) -> None:
        """The same, with what cells and callers wrote taken away too: it is as it was when it was claimed. Raises
        `SandboxGone`, also where files are left that cannot be taken away."""
        async with self._killed_when_broken("was emptied"):
            await self._exchanges.ask("POST", "/start-over", {}, deadline_s=self._patience.fork_s)

    async def variables(self) -> list[Variable]:
        """What the namespace holds besides its own. Bounded. Raises `SandboxGone`, `SandboxBusy`, `KernelGone`."""
        async with self._killed_when_broken("listed its variables"):
            try:
                body = await self._exchanges.ask("GET", "/variables")
            except Refused as exc:
                if exc.code is ErrorCode.KERNEL_LOST:
                    raise kernel_gone(exc) from exc
                raise
            return replies.variables((await replies.read(replies.VARIABLES, body)).variables, MAX_VARIABLES_REPORTED)

    async def stats(self) -> SandboxStats:
        """What the sandbox says of itself. Raises `SandboxGone`."""
        async with self._killed_when_broken("told its stats"):
            return replies.stats(await replies.read(replies.STATS, await self._exchanges.ask("GET", "/stats")))

    @asynccontextmanager
    async def read_value(
        self, name: str, *, as_: Literal["text", "json"], limit_bytes: int
    ) -> AsyncIterator[ValueStream]:
        """Read a variable as a raw stream; `answer` is the content of `answer`.

        What the block leaves unread is read at its end, so that the digest is verified in any case. Leaving it by an
        exception closes the stream; the sandbox lives, but its kernel may not (the next cell's result says so).

        Raises:
            ValueMissing, ValueTooLarge, ValueUnserialisable, KernelGone: nothing was read, the sandbox lives.
            SandboxBusy: a cell runs.
            SandboxGone: the sandbox died or broke the protocol, also while iterating.
        """
        target = f"/values/{quote(name, safe='')}?as={as_}&limit={limit_bytes}"
        deadline_s = self._exchanges.deadline_for(limit_bytes)
        async with self._killed_when_broken("was read from"):
            try:
                async with self._exchanges.exchange("GET", target, deadline_s=deadline_s) as answer:
                    stream = self._value_stream(answer, limit_bytes)
                    async with aclosing(stream.chunks):
                        yield stream
                        async for _ in stream.chunks:
                            pass
            except Refused as exc:
                raise value_error(exc, name, as_, limit_bytes) from exc

    async def kill(self) -> None:
        """End it with everything in it and remove its directory; waits until that is done. Idempotent."""
        self._ending = True
        with anyio.CancelScope(shield=True):
            async with self._one_kill:
                if self._ended.is_set():
                    return
                try:
                    await self._parts.process.kill()
                finally:
                    await self._parts.listener.close()
                    await self._parts.link.close()
                    await anyio.to_thread.run_sync(self._parts.directory.remove)
                    self._ended.set()

    @property
    def seen(self) -> Measured | None:
        """The most that it was found to have used, by the measurements so far; None before the first."""
        return self._seen

    async def measure(self) -> Measured | None:
        """Measure it from outside; the reading, or None when there is none to be had. Bounded; never raises."""
        found: Measured | None = None
        with anyio.move_on_after(self._patience.measure_s):
            found = await self._parts.process.measure()
        if found is not None:
            before = self._seen or found
            self._seen = Measured(
                cpu_s=max(before.cpu_s, found.cpu_s),
                memory_peak_bytes=max(before.memory_peak_bytes, found.memory_peak_bytes),
            )
        return found

    async def wait_until_gone(self) -> None:
        """Until its processes are gone, killed or by themselves. It is still to be killed then, for the rest."""
        await self._parts.process.wait()

    async def _result_of(self, cell_id: CellId, request: CellRequest, is_waiting: Callable[[], bool]) -> CellResult:
        """The cell's request in a task of its own that no cancellation reaches: closing it would leave the cell
        running with nobody to see its end."""
        found: list[CellResult] = []
        failed: list[RlmServiceError] = []

        async def ask() -> None:
            with anyio.CancelScope(shield=True):
                try:
                    found.append(await self._put_cell(cell_id, request))
                except RlmServiceError as exc:
                    failed.append(exc)
                done.set()

        done = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(self._end_overrun, cell_id, request, is_waiting)
            try:
                await done.wait()
                tasks.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await self._end_cell(cell_id, done, request.grace_s)
                raise
        if failed:
            raise failed[0]
        return found[0]

    async def _end_overrun(self, cell_id: CellId, request: CellRequest, is_waiting: Callable[[], bool]) -> None:
        """End the sandbox when its cell has overrun and the supervisor did not stop it."""
        room_s = request.grace_s + self._patience.margin_s
        allowance = Allowance(active_limit_s=request.active_limit_s, room_s=room_s)
        self._overrun = await watch_cell(self.measure, allowance, is_waiting, interval_s=self._patience.sample_s)
        if not self._ending:
            self._log.warning("sandbox_killed", reason=self._overrun, cell_id=cell_id)
        await self.kill()

    async def _put_cell(self, cell_id: CellId, request: CellRequest) -> CellResult:
        deadline_s = request.wall_limit_s + request.grace_s + self._patience.margin_s
        target = f"/cells/{quote(cell_id, safe='')}"
        if self._asked is None or self._asked[0] != cell_id:
            self._asked = (cell_id, time.monotonic())
        async with self._killed_when_broken(f"ran cell {cell_id}", may_be_busy=False):
            body = await self._exchanges.ask("PUT", target, asdict(request), lane="cells", deadline_s=deadline_s)
            reply: CellReply = await replies.read(replies.CELL, body)
            result = replies.cell_result(reply, cell_id, at_most_s=time.monotonic() - self._asked[1])
            self._unacknowledged = cell_id
            return result

    async def _end_cell(self, cell_id: CellId, done: anyio.Event, grace_s: float) -> None:
        """The caller is gone: interrupt, wait for the grace, then kill."""
        with anyio.move_on_after(grace_s + self._patience.margin_s):
            try:
                await self.interrupt(cell_id)
            except SandboxGone:
                return
            await done.wait()
        if not done.is_set():
            self._log.warning("sandbox_killed", reason="a cancelled cell went on", cell_id=cell_id)
            await self.kill()

    def _value_stream(self, answer: Answer, limit_bytes: int) -> ValueStream:
        sha256 = replies.digest(answer.header(DIGEST_HEADER))
        return ValueStream(
            type_name=replies.value_type(answer.header(TYPE_HEADER)),
            size_bytes=answer.announced_bytes,
            sha256=sha256,
            chunks=self._verified(answer, sha256, limit_bytes),
        )

    async def _verified(self, answer: Answer, sha256: str, limit_bytes: int) -> AsyncGenerator[bytes, None]:
        seen = hashlib.sha256()
        async with self._killed_when_broken("was read from"):
            async for chunk in answer.chunks(limit_bytes):
                seen.update(chunk)
                yield chunk
            if seen.hexdigest() != sha256:
                raise ProtocolBroken("a value that is not what its digest says")

    @asynccontextmanager
    async def _killed_when_broken(self, doing: str, *, may_be_busy: bool = True) -> AsyncIterator[None]:
        """Turn a broken protocol, and an error answer that nobody expected, into a killed sandbox.

        That it is busy is believed only beside a cell of ours: who hears it otherwise could do nothing about it.
        """
        if self._ending:
            raise SandboxGone(f"sandbox {self.sandbox_id} is gone already")
        try:
            yield
        except (ProtocolBroken, Refused) as exc:
            is_busy = isinstance(exc, Refused) and exc.code is ErrorCode.BUSY
            if is_busy and may_be_busy and self._one_cell.locked():
                raise SandboxBusy(f"sandbox {self.sandbox_id} is busy with another request: try again") from exc
            reason = f"{exc.code} ({exc.message})" if isinstance(exc, Refused) else self._overrun or str(exc)
            if not self._ending:
                self._log.warning("sandbox_killed", reason=reason, while_it=doing)
                await self.measure()
            await self.kill()
            raise SandboxGone(
                f"sandbox {self.sandbox_id} was killed while it {doing}: {reason}", data={"sandbox": self.sandbox_id}
            ) from exc

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "ending" if self._ending else "running"
        claimed = "warm" if self._exchanges.generation is None else f"generation {self._exchanges.generation}"
        return f"<Sandbox {self.sandbox_id} {self.isolation.level} {state}, {claimed}, {self._parts.link!r}>"


def _size_of(bindings: Sequence[Binding]) -> int:
    return sum(file.size_bytes for binding in bindings for file in binding.files)
