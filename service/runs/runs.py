"""The door to everything that can be done with a run, and the boundary at which a driver's failure ends."""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.abc
import structlog

from service.contexts.redis_contexts import Contexts
from service.errors import BadRequest, NotFound, RlmServiceError, sole_failure
from service.ids import RunId, SessionId, new_id
from service.journal.values import Recorded, SessionRecord, StaleEpoch
from service.loop.events import (
    CallFinished,
    ChildRunFinished,
    RunFinished,
    RunSubmitted,
    SandboxAcquired,
)
from service.loop.packs import read_pack
from service.loop.values import AnswerSource, ChildShown, ContextBinding, HostCallKey, StopReason
from service.models.catalog import Catalog
from service.runs.bindings import Wanted
from service.runs.budget import BudgetReport
from service.runs.children import MAX_CHILD_ANSWER_BYTES, ChildAnswer, Children, ChildRequest
from service.runs.driver import PreparedSession, Rooms, RunDriver, wrap_up_hold
from service.runs.grants import Grants
from service.runs.host_calls import HostCalls
from service.runs.metered_call import HOLD_MARGIN_S
from service.runs.purse import Purse, rows
from service.runs.recorder import Recorder
from service.runs.sessions import OpenSession, SessionRooms
from service.runs.standing import Standing
from service.runs.sub_calls import SubCalls
from service.runs.submission import (
    SUB_OUTPUT_TOKENS,
    Family,
    Submission,
    check_request,
    first_event,
    output_tokens,
)
from service.runs.values import RunRequest, RunView
from service.runs.views import view_of
from service.sandboxes.port import Provider
from service.sandboxes.slots import Chain, Slots
from service.store.errors import StoreFailed

STOP_WITHIN_S = 60.0
LAST_WORD_S = 5.0
"""How long a run that broke off may try to write down why."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsRooms:
    """What `Runs` works with, besides what its drivers and sessions do."""

    driver: Rooms
    session: SessionRooms
    contexts: Contexts
    catalog: Catalog
    provider: Provider
    slots: Slots
    grants: Grants


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptSession:
    """A session that outlives its runs, with the slot that it holds meanwhile."""

    session: OpenSession
    slot: AsyncExitStack


class Runs:
    """Submit, start, follow, cancel, show. One per replica; drives runs in the task group it is given."""

    def __init__(self, rooms: RunsRooms, tasks: anyio.abc.TaskGroup) -> None:
        self._rooms = rooms
        self._tasks = tasks
        self._live: dict[RunId, anyio.Event] = {}
        self._kept_sessions: dict[SessionId, _KeptSession] = {}

    def __repr__(self) -> str:
        return f"<Runs live={len(self._live)} kept_sessions={len(self._kept_sessions)} {self._rooms.slots!r}>"

    # -- what callers use ------------------------------------------------------------------------------------------

    async def submit(self, request: RunRequest) -> RunId:
        """Check, price and journal a new run. It waits until somebody calls `start`.

        Raises:
            BadRequest, NotFound, UnknownModel, UnpricedModel, MissingApiKey: what the request asks for cannot be.
            SandboxRefused, NoSandboxSlot: this machine cannot run it.
            StoreFailed: nothing was submitted.
        """
        check_request(request)
        self._rooms.slots.check(request.limits.depth + 1)
        await self._rooms.provider.isolation()
        session_id = request.session_id
        if session_id is None:
            session_id = await self.open_session()
        else:
            record = await self._rooms.session.records.get(session_id)
            if record.closed_at is not None:
                raise BadRequest(f"session {session_id} is closed: submit without a session, or open another one")
        submitted = await self._first_event(request, session_id)
        purse = Purse(submitted.run_id, submitted.limits)
        for account, limit in purse.limit_rows().items():
            await self._rooms.driver.ledger.set_limit(account, limit)
        await self._rooms.driver.journal.open_run(submitted)
        return submitted.run_id

    def start(self, run_id: RunId) -> None:
        """Drive a submitted run in this replica's task group. Calling it for a live run changes nothing."""
        if run_id not in self._live:
            self._live[run_id] = anyio.Event()
            self._tasks.start_soon(self._drive_to_last_word, run_id)

    def follow(self, run_id: RunId, after: int = 0) -> AsyncIterator[Recorded]:
        """The run's events from behind `after`, as they come, ending with `RunFinished`."""
        return self._rooms.driver.journal.follow(run_id, after)

    async def cancel(self, run_id: RunId) -> None:
        """Ask for the run to be stopped, wherever it is driven. Idempotent; a finished run stays as it is."""
        await self._rooms.driver.journal.request_cancel(run_id)

    async def show(self, run_id: RunId) -> RunView:
        """Raises `NotFound`."""
        return view_of(run_id, await self._all_events(run_id))

    async def ls(self, limit: int) -> list[RunView]:
        """The newest root runs first."""
        return [await self.show(run_id) for run_id in await self._rooms.driver.journal.list_runs(limit)]

    async def answer_chunks(self, run_id: RunId) -> AsyncIterator[bytes]:
        """The answer as stored, of any size; nothing when there is none (yet)."""
        view = await self.show(run_id)
        if view.answer is not None:
            async for chunk in self._rooms.driver.blobs.stream(view.answer):
                yield chunk

    async def open_session(self) -> SessionId:
        """A session that runs can be submitted to one after the other, keeping its variables between them."""
        session_id = SessionId(new_id("ses"))
        await self._rooms.session.records.create(
            SessionRecord(session_id=session_id, created_at=self._rooms.driver.now(), random_seed=secrets.randbits(48))
        )
        return session_id

    async def close_session(self, session_id: SessionId) -> None:
        """End the session's sandbox here, if it has one. Idempotent."""
        kept = self._kept_sessions.pop(session_id, None)
        if kept is not None:
            async with kept.session.turnstile:
                await kept.slot.aclose()
        await self._rooms.session.records.close(session_id, self._rooms.driver.now())

    async def stop(self) -> None:
        """Cancel every live run and wait until each has settled and said its last word. Called before closing."""
        for run_id in list(self._live):
            with contextlib.suppress(StoreFailed, NotFound):  # a run without its store is stopping by itself
                await self.cancel(run_id)
        with anyio.move_on_after(STOP_WITHIN_S):
            for ended in list(self._live.values()):
                await ended.wait()
        while self._kept_sessions:
            _, kept = self._kept_sessions.popitem()
            await kept.slot.aclose()

    # -- driving ---------------------------------------------------------------------------------------------------

    async def _drive_to_last_word(self, run_id: RunId) -> None:
        """The boundary: whatever breaks off a run is logged, and written into its journal if that can be."""
        try:
            await self._drive_root(run_id)
        except Exception as exc:  # noqa: BLE001 -- one of the few boundaries: a run's failure must not end the others
            await self._say_last_word(run_id, sole_failure(exc))
        finally:
            self._live.pop(run_id).set()

    async def _drive_root(self, run_id: RunId) -> None:
        journal = self._rooms.driver.journal
        epoch = await journal.take_over(run_id)
        recorded = await self._all_events(run_id)
        submitted = recorded[0].event
        assert isinstance(submitted, RunSubmitted)
        standing = self._standing(submitted, (run_id,), Purse(run_id, submitted.limits), epoch)
        await self._reserve_wrap_up(standing)
        waiting_s = max(1.0, submitted.deadline_at - self._rooms.driver.now())
        async with self._rooms.slots.admit(submitted.limits.depth + 1, deadline_s=waiting_s) as chain:
            await self._drive(standing, recorded, chain)

    async def _drive(self, standing: Standing, recorded: list[Recorded], chain: Chain) -> None:
        recorder = Recorder(self._rooms.driver.journal, standing.run_id, standing.epoch, recorded)
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            host_calls = self._host_calls(standing, recorder, chain, tasks)
            for entry in [*await self._earlier_events(standing.submitted), *recorded]:
                host_calls.remember(entry.event)
            expires_at = standing.submitted.deadline_at

            def new_grant() -> str:
                return stack.enter_context(self._rooms.grants.granted(host_calls, expires_at=expires_at))

            session = await stack.enter_async_context(self._session(standing.submitted, chain))

            async def prepare() -> None:
                sandbox = await session.open(new_grant())
                await session.prepare(standing.run_id, _wanted(standing.submitted), host_calls)
                await recorder.record(
                    SandboxAcquired(
                        at=self._rooms.driver.now(),
                        sandbox_id=sandbox.sandbox_id,
                        generation=sandbox.generation or 0,
                        isolation=f"{sandbox.isolation.provider}/{sandbox.isolation.level}",
                    )
                )

            prepared = PreparedSession(session, prepare)
            tasks.start_soon(prepared.prepare)
            driver = RunDriver(
                standing, recorder, prepared, host_calls, rooms=self._rooms.driver, rebuild_grant=new_grant
            )
            await driver.drive()
            tasks.cancel_scope.cancel()

    def _host_calls(
        self,
        standing: Standing,
        recorder: Recorder,
        chain: Chain,
        tasks: anyio.abc.TaskGroup,
    ) -> HostCalls:
        rooms = self._rooms
        sub_calls = SubCalls(
            standing,
            max_output_tokens=output_tokens(
                standing.sub_route, standing.purse.limits.cost, default=SUB_OUTPUT_TOKENS, share=20
            ),
            metered=rooms.driver.metered,
            append=recorder.record,
        )

        async def run_child(key: HostCallKey, request: ChildRequest) -> ChildAnswer:
            return await self._run_child(standing, chain, key, request)

        children = Children(standing, sub_calls=sub_calls, run_child=run_child, append=recorder.record)
        budget = BudgetReport(
            standing, ledger=rooms.driver.ledger, turns_taken=lambda: recorder.state.turn.number, now=rooms.driver.now
        )
        return HostCalls(
            {
                "llm_query": sub_calls,
                "llm_query_batched": sub_calls,
                "rlm_query": children,
                "rlm_query_batched": children,
                "budget": budget,
            },
            record=recorder.record,
            now=rooms.driver.now,
            tasks=tasks,
        )

    async def _earlier_events(self, submitted: RunSubmitted) -> list[Recorded]:
        """The events of the session's earlier runs: their host calls answer a rebuild."""
        if not submitted.keeps_session:
            return []
        records = await self._rooms.session.cell_log.read(submitted.session_id)
        earlier = dict.fromkeys(record.run_id for record in records if record.run_id != submitted.run_id)
        return [entry for run_id in earlier for entry in await self._all_events(run_id)]

    @asynccontextmanager
    async def _session(self, submitted: RunSubmitted, chain: Chain) -> AsyncIterator[OpenSession]:
        """The run's session while the run uses it; one that only this run uses ends with the block."""
        if submitted.keeps_session:
            kept = await self._kept_session(submitted)
            async with kept.session.turnstile:
                yield kept.session
            return
        session = OpenSession(submitted.session_id, rooms=self._rooms.session)
        async with chain.take(submitted.depth):
            try:
                yield session
            finally:
                with anyio.CancelScope(shield=True):
                    await session.close()

    async def _kept_session(self, submitted: RunSubmitted) -> "_KeptSession":
        """A kept session holds a sandbox slot of its own, from its first run here until it is closed."""
        kept = self._kept_sessions.get(submitted.session_id)
        if kept is not None:
            return kept
        stack = AsyncExitStack()
        waiting_s = max(1.0, submitted.deadline_at - self._rooms.driver.now())
        chain = await stack.enter_async_context(self._rooms.slots.admit(1, deadline_s=waiting_s))
        await stack.enter_async_context(chain.take(0))
        session = OpenSession(submitted.session_id, rooms=self._rooms.session)
        stack.push_async_callback(session.close)
        kept = self._kept_sessions.setdefault(submitted.session_id, _KeptSession(session=session, slot=stack))
        if kept.session is not session:
            await stack.aclose()
        return kept

    # -- child runs ------------------------------------------------------------------------------------------------

    async def _run_child(self, parent: Standing, chain: Chain, key: HostCallKey, request: ChildRequest) -> ChildAnswer:
        journal = self._rooms.driver.journal
        submitted = await self._submit_child(parent, request)
        epoch = await journal.take_over(submitted.run_id)
        recorded = await self._all_events(submitted.run_id)
        lineage = (submitted.run_id, *parent.lineage)
        standing = self._standing(submitted, lineage, parent.purse, epoch)
        await self._drive(standing, recorded, chain)
        view = await self.show(submitted.run_id)
        assert view.stop_reason is not None
        events = await self._all_events(submitted.run_id)
        event = ChildRunFinished(
            at=self._rooms.driver.now(),
            key=key,
            child=ChildShown(
                run_id=submitted.run_id,
                stop_reason=view.stop_reason,
                spent=view.spent,
                tokens=_tokens_of(events),
                sub_calls=view.sub_calls,
            ),
        )
        if view.answer is None:
            return ChildAnswer(
                event=event, text=None, message=f"the child run ended without an answer ({view.stop_reason})"
            )
        if view.answer.size_bytes > MAX_CHILD_ANSWER_BYTES:
            return ChildAnswer(
                event=event, text=None, message=f"the child's answer is larger than {MAX_CHILD_ANSWER_BYTES} bytes"
            )
        payload = await self._rooms.driver.blobs.read(view.answer, limit_bytes=MAX_CHILD_ANSWER_BYTES)
        return ChildAnswer(event=event, text=payload.decode("utf-8", "replace"), message="")

    async def _submit_child(self, parent: Standing, request: ChildRequest) -> RunSubmitted:
        if isinstance(request.context, str):
            context = await self._rooms.contexts.put_text(
                "context", _once(request.context.encode("utf-8", "backslashreplace")), is_listed=False
            )
        else:
            context = await self._rooms.contexts.put_json(
                "context", _once(json.dumps(request.context).encode()), is_listed=False
            )
        given = parent.submitted
        child_request = RunRequest(
            question=request.question,
            contexts=(ContextBinding(context_id=context.context_id),),
            root_model=request.root_model,
            sub_model=given.sub_model,
            limits=given.limits,
            tools=given.tools,
            prompt_pack=given.prompt.pack.partition("@")[0],
        )
        check_request(child_request)
        family = Family(parent_run_id=given.run_id, depth=given.depth + 1, deadline_at=given.deadline_at)
        submitted = await self._first_event(child_request, await self.open_session(), family)
        await self._rooms.driver.journal.open_run(submitted)
        return submitted

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _first_event(
        self, request: RunRequest, session_id: SessionId, family: Family | None = None
    ) -> RunSubmitted:
        contexts = tuple([await self._rooms.contexts.get(binding.context_id) for binding in request.contexts])
        return first_event(
            request,
            Submission(
                run_id=RunId(new_id("run")),
                session_id=session_id,
                contexts=contexts,
                root_route=self._rooms.catalog.resolve(request.root_model),
                sub_route=self._rooms.catalog.resolve(request.sub_model),
                pack=read_pack(request.prompt_pack),
                at=self._rooms.driver.now(),
                family=family,
            ),
        )

    def _standing(self, submitted: RunSubmitted, lineage: tuple[RunId, ...], purse: Purse, epoch: int) -> Standing:
        return Standing(
            submitted=submitted,
            lineage=lineage,
            purse=purse,
            root_route=self._rooms.catalog.resolve(submitted.root_model),
            sub_route=self._rooms.catalog.resolve(submitted.sub_model),
            epoch=epoch,
        )

    async def _reserve_wrap_up(self, standing: Standing) -> None:
        """Set the wrap-up call's money aside, so that even a run that spends everything can say what it has."""
        if standing.submitted.wrap_up is None:
            return
        hold = wrap_up_hold(standing)
        refusal = await self._rooms.driver.ledger.reserve(
            hold.call_id,
            rows(standing.lineage, hold.amount),
            expires_at=standing.submitted.deadline_at + HOLD_MARGIN_S,
        )
        if refusal is None:
            standing.purse.standing = hold.amount.nano_usd

    async def _all_events(self, run_id: RunId) -> list[Recorded]:
        recorded: list[Recorded] = []
        while page := await self._rooms.driver.journal.read(run_id, after=recorded[-1].seq if recorded else 0):
            recorded.extend(page)
        return recorded

    async def _say_last_word(self, run_id: RunId, failure: BaseException) -> None:
        if isinstance(failure, StaleEpoch):
            log.info("run_taken_over", run_id=run_id)
            return
        reason = StopReason.INTERNAL_ERROR
        message = "a defect of the service ended this run; its log has the details"
        if isinstance(failure, StoreFailed):
            reason, message = StopReason.STORE_FAILED, str(failure)
        elif isinstance(failure, RlmServiceError):
            reason, message = StopReason.SANDBOX_LOST, str(failure)
        log.error("run_broke_off", run_id=run_id, stop_reason=reason.value, exc_info=failure)
        with anyio.move_on_after(LAST_WORD_S, shield=True):
            while True:
                try:
                    await self._append_last_word(run_id, reason, message)
                    return
                except StoreFailed:
                    await anyio.sleep(0.5)
                except RlmServiceError as exc:
                    log.warning("last_word_refused", run_id=run_id, code=exc.code)
                    return

    async def _append_last_word(self, run_id: RunId, reason: StopReason, message: str) -> None:
        journal = self._rooms.driver.journal
        epoch = await journal.take_over(run_id)
        recorded = await self._all_events(run_id)
        view = view_of(run_id, recorded)
        state = Recorder(journal, run_id, epoch, recorded).state
        await journal.append(
            run_id,
            epoch,
            RunFinished(
                at=self._rooms.driver.now(),
                stop_reason=reason,
                answer_source=AnswerSource.PARTIAL,
                answer=state.partial,
                spent=view.spent,
                message=message,
            ),
        )


def _wanted(submitted: RunSubmitted) -> Wanted:
    return Wanted(contexts=submitted.bindings, tools=submitted.tools, is_child=submitted.depth > 0)


def _tokens_of(recorded: list[Recorded]) -> int:
    own = sum(
        entry.event.usage.input_tokens + entry.event.usage.output_tokens
        for entry in recorded
        if isinstance(entry.event, CallFinished)
    )
    return own + sum(entry.event.child.tokens for entry in recorded if isinstance(entry.event, ChildRunFinished))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
