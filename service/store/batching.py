"""Batching: concurrent writes of one kind travel together, in the order they were asked for.

There is no background task. Of those who wait, the first to get the lock becomes the leader: it takes everything
that is queued, flushes it, and leaves the outcome at each item; the others wake up to find theirs. While one flush
is under way the next batch gathers, so batches grow with the load and a lone write waits for nobody.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from service.errors import RlmServiceError
from service.store.errors import StoreFailed

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

LARGEST_BATCH = 256


class Batch(Generic[Item, Outcome]):
    """Coalesces `put`s into calls of `flush`, which answers every item with an outcome or an error, in order."""

    def __init__(self, flush: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | RlmServiceError]]]) -> None:
        self._flush = flush
        self._lock = anyio.Lock()
        """One flush at a time: that is what keeps the order."""
        self._queue: deque[_Waiting[Item, Outcome]] = deque()

    async def put(self, item: Item) -> Outcome:
        """Write the item. Cancelled before its batch has left, it is not written; afterwards, it is.

        Raises:
            RlmServiceError: what `flush` answered for this item, or raised for the whole batch.
        """
        waiting: _Waiting[Item, Outcome] = _Waiting(item)
        self._queue.append(waiting)
        try:
            async with self._lock:
                while not waiting.is_done:
                    await self._lead()
        except BaseException:
            if waiting in self._queue:
                self._queue.remove(waiting)
            raise
        return waiting.outcome()

    async def _lead(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), LARGEST_BATCH))]
        # Shielded: its leader takes others' items along, and a write that has left is waited for. What waits within is
        # bounded by the patience with the store (`patience`), also when the replica is to end.
        with anyio.CancelScope(shield=True):
            try:
                outcomes = await self._flush([waiting.item for waiting in batch])
            except RlmServiceError as error:
                outcomes = [error] * len(batch)
            except BaseException:
                # Whatever tore the leader away, those who wait for it must not wait for ever.
                for waiting in batch:
                    waiting.answer(StoreFailed("a write was torn off; whether it took place is unknown"))
                raise
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.answer(outcome)


class _Waiting(Generic[Item, Outcome]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self._answer: list[Outcome | RlmServiceError] = []

    @property
    def is_done(self) -> bool:
        return bool(self._answer)

    def answer(self, outcome: Outcome | RlmServiceError) -> None:
        self._answer.append(outcome)

    def outcome(self) -> Outcome:
        (outcome,) = self._answer
        if isinstance(outcome, RlmServiceError):
            # Several may wait for one failed flush; each gets an exception of its own to raise.
            raise type(outcome)(str(outcome), data=outcome.data) from outcome
        return outcome
