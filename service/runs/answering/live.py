"""What goes on in this replica while answers are being made: direct calls, their texts as they come, and who listens.

A call does not belong to the request that asked for it: a client whose connection breaks tries again, and finds the
same call going on. What everybody has left is cancelled after a grace.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import anyio.abc
import structlog

from service.errors import RlmServiceError
from service.ids import RunId
from service.journal.redis_journal import Journal
from service.runs.calls.values import TextListener
from service.runs.direct.direct_calls import DirectCalls
from service.runs.direct.values import DirectRequest
from service.store.errors import StoreFailed

GRACE_S = 15.0
"""From when nobody listens to when a run is cancelled: clients that lost a connection are back within it."""
STORE_PAUSE_S = 2.0
"""Until a store that failed is asked again whether a call was cancelled: the call goes on meanwhile."""

_log = structlog.get_logger(__name__)


class LiveText:
    """A reply as it comes, for any number of listeners, each from its beginning."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._is_over = False
        self._news = anyio.Event()

    def __repr__(self) -> str:
        return f"<LiveText pieces={len(self._pieces)}{' over' if self._is_over else ''}>"

    def hear(self, text: str) -> None:
        self._pieces.append(text)
        self._ring()

    def end(self) -> None:
        """No more will come. Idempotent."""
        self._is_over = True
        self._ring()

    async def follow(self, patience_s: float) -> AsyncIterator[str]:
        """The pieces; an empty one when nothing has come for `patience_s`."""
        seen = 0
        while True:
            news, fresh = self._news, self._pieces[seen:]
            if fresh:
                seen += len(fresh)
                yield "".join(fresh)
            elif self._is_over:
                return
            else:
                with anyio.move_on_after(patience_s) as waited:
                    await news.wait()
                if waited.cancelled_caught:
                    yield ""

    def _ring(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()


@dataclass(slots=True)
class Hearing:
    """One listener's."""

    may_leave: bool = False
    """Nothing is cancelled because this one leaves: it has heard all, or the run goes on alone."""


class LiveAnswers:
    """One for each replica, for all tenants."""

    def __init__(self, tasks: anyio.abc.TaskGroup, *, grace_s: float = GRACE_S) -> None:
        """`tasks` is where calls go on; cancelling it ends them, charged for what providers may bill."""
        self._tasks = tasks
        self._grace_s = grace_s
        self._texts: dict[RunId, LiveText] = {}
        self._listeners: Counter[RunId] = Counter()

    def __repr__(self) -> str:
        return f"<LiveAnswers calls={len(self._texts)} listened_to={len(self._listeners)}>"

    def text_of(self, run_id: RunId) -> LiveText | None:
        """Of a direct call that this replica is making."""
        return self._texts.get(run_id)

    async def call(self, calls: DirectCalls, journal: Journal, request: DirectRequest, run_id: RunId) -> None:
        """Begin a direct call, and come back when its run is there. What goes wrong later stands in its journal.

        Raises:
            RlmServiceError: as `DirectCalls.complete` does before there is a run.
        """
        await self._tasks.start(self._call, calls, journal, request, run_id)

    @contextmanager
    def listening(self, run_id: RunId, cancel: Callable[[], Awaitable[None]]) -> Iterator[Hearing]:
        """Listen to a run's answer for the time of the block. Left by one who may not, and with nobody else listening,
        it is cancelled after the grace."""
        self._listeners[run_id] += 1
        hearing = Hearing()
        try:
            yield hearing
        finally:
            self._listeners[run_id] -= 1
            if not self._listeners[run_id]:
                del self._listeners[run_id]
                if not hearing.may_leave:
                    self._tasks.start_soon(self._cancel_unless_heard, run_id, cancel)

    async def _cancel_unless_heard(self, run_id: RunId, cancel: Callable[[], Awaitable[None]]) -> None:
        await anyio.sleep(self._grace_s)
        if run_id not in self._listeners:
            try:
                await cancel()
            except RlmServiceError as error:
                _log.warning("left_run_not_cancelled", run_id=run_id, reason=str(error))

    async def _call(
        self,
        calls: DirectCalls,
        journal: Journal,
        request: DirectRequest,
        run_id: RunId,
        *,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        text = LiveText()
        is_open = False
        failure: RlmServiceError | None = None

        def opened() -> None:
            nonlocal is_open
            is_open = True
            self._texts[run_id] = text
            task_status.started()

        try:
            async with anyio.create_task_group() as both:
                both.start_soon(_cancel_when_asked, journal, run_id, both.cancel_scope)
                try:
                    await calls.complete(request, TextListener(text.hear), run_id, on_open=opened)
                except RlmServiceError as error:
                    failure = error
                both.cancel_scope.cancel()
        except Exception:
            # One of the few boundaries: the failure of one call must not end the others.
            if not is_open:
                raise
            _log.exception("direct_call_failed", run_id=run_id)
        finally:
            text.end()
            self._texts.pop(run_id, None)
        if failure is not None and not is_open:
            raise failure


async def _cancel_when_asked(journal: Journal, run_id: RunId, scope: anyio.CancelScope) -> None:
    while True:
        try:
            await journal.wait_for_cancel(run_id)
        except StoreFailed as error:
            _log.warning("cancel_not_looked_for", run_id=run_id, reason=str(error))
            await anyio.sleep(STORE_PAUSE_S)
        else:
            scope.cancel()
            return
