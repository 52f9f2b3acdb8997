"""Batching: order, errors and cancellation of writes that travel together."""

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from service.errors import BadRequest, RlmServiceError
from service.store.batching import LARGEST_BATCH, Batch
from service.store.errors import StoreFailed

pytestmark = pytest.mark.anyio


class Target:
    """Something that is written to, and that can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = anyio.Event()
        self.is_flushing = anyio.Event()

    async def flush(self, items: Sequence[int]) -> list[int | RlmServiceError]:
        self.is_flushing.set()
        await self.may_go_on.wait()
        self.batches.append(list(items))
        return [BadRequest("odd") if item % 2 else item for item in items]


async def test_what_waits_together_travels_together_and_in_order() -> None:
    """While one write is under way the others gather, and leave in the order they were asked for, bounded."""
    target = Target()
    batch: Batch[int, int] = Batch(target.flush)
    async with anyio.create_task_group() as group:
        for item in range(0, 2 * (LARGEST_BATCH + 10), 2):
            group.start_soon(batch.put, item)
        await target.is_flushing.wait()
        target.may_go_on.set()
    assert [item for flushed in target.batches for item in flushed] == list(range(0, 2 * (LARGEST_BATCH + 10), 2))
    assert len(target.batches) <= 3
    assert max(map(len, target.batches)) <= LARGEST_BATCH


async def test_each_gets_its_own_outcome() -> None:
    """One failing item of a batch fails alone."""
    target = Target()
    target.may_go_on.set()
    batch: Batch[int, int] = Batch(target.flush)
    good: list[int] = []
    bad: list[int] = []

    async def put(item: int) -> None:
        try:
            good.append(await batch.put(item))
        except BadRequest:
            bad.append(item)

    async with anyio.create_task_group() as group:
        for item in range(10):
            group.start_soon(put, item)
    assert (sorted(good), sorted(bad)) == ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9])


async def test_a_failed_batch_fails_all_of_it() -> None:
    """Where the whole write fails, everyone who waited for it is told, each with an error of their own."""

    async def flush(items: Sequence[int]) -> list[int | RlmServiceError]:
        raise StoreFailed("gone")

    batch: Batch[int, int] = Batch(flush)
    errors: list[StoreFailed] = []

    async def put(item: int) -> None:
        with pytest.raises(StoreFailed, match="gone") as failed:
            await batch.put(item)
        errors.append(failed.value)

    async with anyio.create_task_group() as group:
        for item in range(5):
            group.start_soon(put, item)
    assert len({id(error) for error in errors}) == 5


async def test_cancelled_before_it_left_it_is_not_written() -> None:
    """An item that still waited when its writer was cancelled never arrives; one under way does."""
    target = Target()
    batch: Batch[int, int] = Batch(target.flush)
    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as cancelled:
            outer.start_soon(batch.put, 0)
            await target.is_flushing.wait()
            cancelled.start_soon(batch.put, 2)
            await anyio.lowlevel.checkpoint()
            cancelled.cancel_scope.cancel()
        target.may_go_on.set()
        await batch.put(4)
    assert target.batches[0] == [0]
    assert [item for flushed in target.batches for item in flushed] == [0, 4]
