"""What a run writes to the store, and how often: each write waits for the disk, so they are counted."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from service.loop.values import StopReason
from service.store import connection
from service.store.connection import Reply, ScriptCall, Store
from tests.runs.playing import repl, stage

pytestmark = pytest.mark.anyio


class WatchedStore(Store):
    """Notes what the tasks of these names write: each round trip with the names of its scripts."""

    seen: list[tuple[str, ...]]
    tasks: tuple[str, ...] = ("._drive",)

    async def _run(self, calls: Sequence[ScriptCall], *, is_idempotent: bool) -> list[Reply]:
        if (anyio.get_current_task().name or "").endswith(self.tasks):
            self.seen.append(tuple(call.script.name for call in calls))
        return await super()._run(calls, is_idempotent=is_idempotent)


HOLD, CALL_ENDS, CELL_IS_LOGGED = ("reserve.lua",), ("append.lua", "resolve.lua"), ("log_append.lua",)
APPEND = ("append.lua",)
TURN = (HOLD, CALL_ENDS, CELL_IS_LOGGED, APPEND)
ENDING = (APPEND, ("storage_hold.lua",), ("resolve.lua",), APPEND)
"""The answer is read, counted as kept; the wrap-up's money is given back; the run ends."""


async def test_a_turn_writes_four_times_and_the_end_of_a_run_four_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is held, then journalled and settled at once; its cell is logged, and its end journalled."""
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(connection, "Store", type("Watched", (WatchedStore,), {"seen": seen}))
    turns = [repl(f"x{number} = {number}") for number in range(4)]
    async with stage(tmp_path, *turns, repl("FINAL(x0 + x3)")) as on:
        played = await on.play(await on.request("x"))
    assert (played.finished.stop_reason, played.answer) == (StopReason.ANSWERED, b"3")
    # The end of the first call may travel together with the news of the sandbox; behind the first cell nobody else
    # writes for the run.
    since = seen[seen.index(CELL_IS_LOGGED) + 2 :]
    assert since == [*(4 * TURN), *ENDING]


async def test_a_sub_call_writes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held; and what it was answered is journalled, recorded for the cell and settled at once."""
    seen: list[tuple[str, ...]] = []
    watched = type("Watched", (WatchedStore,), {"seen": seen, "tasks": ("._make", ".run_item")})
    monkeypatch.setattr(connection, "Store", watched)
    async with stage(tmp_path, repl("llm_query('a')"), repl("FINAL('b')")) as on:
        await on.play(await on.request("x"))
    assert seen == [HOLD, CALL_ENDS]
