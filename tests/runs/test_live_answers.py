"""Direct calls that go on in a replica, whoever asked for them."""

from pathlib import Path

import anyio
import pytest

from service.ids import KeyId, RunId, new_id
from service.journal.redis_journal import Journal
from service.loop.values import Message, StopReason
from service.models.port import ModelReply, ModelRequest
from service.runs.answering.live import LiveAnswers
from service.runs.direct.direct_calls import DirectCalls
from service.runs.direct.values import DirectRequest
from service.store.blobs import Blobs
from service.store.errors import StoreFailed
from tests.runs.playing import SUB, stage

pytestmark = pytest.mark.anyio

PATIENCE_S = 60.0


class Stumbling(Journal):
    """A journal whose store is away the first time that somebody waits for a cancellation."""

    waits = 0

    async def wait_for_cancel(self, run_id: RunId) -> None:
        self.waits += 1
        if self.waits == 1:
            raise StoreFailed("the store is away")
        await super().wait_for_cancel(run_id)


async def never(request: ModelRequest) -> ModelReply:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_store_that_is_away_for_a_moment_ends_no_call_of_the_replica(tmp_path: Path) -> None:
    """Its calls go on, and are cancelled when that is asked for later."""
    run_id = RunId(new_id("run"))
    async with stage(tmp_path, sub=never) as on:
        rooms = on.service.runs.rooms
        journal = Stumbling(on.service.store, Blobs(tmp_path / "blobs"), rooms.journal.tenant)
        request = DirectRequest(
            model=SUB, messages=(Message(role="user", content="hello"),), max_output_tokens=1_000, key_id=KeyId("key_1")
        )
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                await LiveAnswers(tasks).call(DirectCalls(rooms), journal, request, run_id)
                await journal.request_cancel(run_id)
        view = await on.service.runs.show(run_id)
        assert (view.stop_reason, journal.waits) == (StopReason.CANCELLED, 2)
