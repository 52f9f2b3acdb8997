"""A store that refuses one write of a replica that lives on: nothing may be taken for done that was not."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from service.loop.values import StopReason
from service.store import connection
from service.store.connection import Command, Reply, Store
from service.store.errors import StoreFailed
from service.wiring.service import open_service
from tests.runs.playing import repl
from tests.runs.recovery.crashing import ANSWER, CrashPoint, end_of, world

pytestmark = pytest.mark.anyio


class RefusesASeed(Store):
    """The first note of a sandbox's hash seed does not arrive."""

    refused: int = 0

    async def _execute(self, commands: Sequence[Command], *, is_idempotent: bool) -> list[Reply]:
        if not type(self).refused and any({"HSETNX", "hash_seed"} <= set(command) for command in commands):
            type(self).refused += 1
            raise StoreFailed("the store does not answer")
        return await super()._execute(commands, is_idempotent=is_idempotent)


async def test_a_sandbox_whose_beginning_broke_off_is_not_taken_for_a_rebuilt_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails just when a session has a new sandbox: the same replica goes on later, and the session's
    variables are there."""
    async with world(tmp_path) as it:
        async with it.replica(monkeypatch, CrashPoint()) as first:
            session_id = await first.runs.open_session()
            run_id = await first.runs.submit(await it.request(first, session_id))
            first.runs.start(run_id)
            await end_of(it, run_id)
        it.model.turns = (lambda _: repl("FINAL(repr(kept))"),)
        monkeypatch.setattr(connection, "Store", RefusesASeed)
        monkeypatch.setattr(RefusesASeed, "refused", 0)
        async with open_service(it.settings, serves=True) as second:
            run_id = await second.runs.submit(await it.request(second, session_id))
            second.runs.start(run_id)
            finished = await end_of(it, run_id)
            answer = b"".join([chunk async for chunk in second.runs.answer_chunks(run_id)]).decode()
        assert RefusesASeed.refused == 1
        assert (finished.stop_reason, answer) == (StopReason.ANSWERED, ANSWER), finished.message
